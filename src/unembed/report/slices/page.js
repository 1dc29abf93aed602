// Cells: one picture at a time; without this script all of them are seen.
const pictures = (() => {
  const buttons = Array.from(document.querySelectorAll("button[data-picture]"));
  const figures = Array.from(document.querySelectorAll("#cells figure"));
  const show = (number) => {
    figures.forEach((figure, at) => { figure.hidden = at !== number; });
    buttons.forEach((button, at) => button.setAttribute("aria-pressed", at === number));
  };
  for (const button of buttons) button.addEventListener("click", () => show(Number(button.dataset.picture)));
  show(0);
  return {
    // Shows a picture and takes the reader there; the button keeps the keyboard's place.
    open(number) {
      show(number);
      document.getElementById("cells").scrollIntoView({ block: "start" });
      buttons[number].focus({ preventScroll: true });
    },
  };
})();

