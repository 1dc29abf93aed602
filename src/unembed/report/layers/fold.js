// Sections that fold open where something inside is linked to, and on paper.
{
  const unfold = () => {
    const wanted = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (wanted) for (const one of [wanted.closest(".fold"), wanted.querySelector(":scope > .fold")]) one?.setAttribute("open", "");
  };
  addEventListener("hashchange", unfold);
  for (const link of document.querySelectorAll("nav a")) link.addEventListener("click", () => setTimeout(unfold));
  addEventListener("beforeprint", () => { for (const one of document.querySelectorAll(".fold")) one.open = true; });
  unfold();
}
