"use strict";

// Theme: follows the system until the button is pressed.
{
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.style.colorScheme || (system.matches ? "dark" : "light")) === "dark";
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => {
    root.style.colorScheme = dark() ? "light" : "dark";
    label();
  });
  system.addEventListener("change", label);
  label();
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Calls what it is given where the pointer is, with the element there.
function onPoint(show) {
  for (const kind of ["pointermove", "pointerdown"]) {
    document.addEventListener(kind, (event) => show(event, event.target instanceof Element ? event.target : null));
  }
}

// Shows what it is given in the hint, above the pointer where there is room.
function showHint(event, ...content) {
  const hint = document.getElementById("hint");
  hint.replaceChildren(...content);
  hint.hidden = false;
  const edge = scrollX + document.documentElement.clientWidth - hint.offsetWidth - 6;
  hint.style.left = `${Math.max(scrollX + 6, Math.min(event.pageX + 14, edge))}px`;
  const above = event.clientY > hint.offsetHeight + 20;
  hint.style.top = `${above ? event.pageY - hint.offsetHeight - 12 : event.pageY + 20}px`;
}

// Charts: the reading of a mark.
onPoint((event, target) => {
  const mark = target?.closest("[data-tip]");
  if (mark) showHint(event, mark.dataset.tip);
  else document.getElementById("hint").hidden = true;
});
