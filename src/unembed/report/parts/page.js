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

// What is wider or longer than its frame fades out where there is more.
{
  const frames = document.querySelectorAll(".scroll, #tokens, .groups");
  const mark = (frame) => {
    const [across, down] = [frame.scrollWidth - frame.clientWidth, frame.scrollHeight - frame.clientHeight];
    const more = {
      "more-left": across > 1 && frame.scrollLeft > 1,
      "more-right": across > 1 && frame.scrollLeft < across - 1,
      "more-below": down > 1 && frame.scrollTop < down - 1,
    };
    for (const [name, on] of Object.entries(more)) frame.classList.toggle(name, on);
    frame.classList.toggle("more", across > 1 || down > 1);
  };
  const seen = new ResizeObserver((changes) => { for (const one of changes) mark(one.target.closest(".scroll, #tokens, .groups")); });
  for (const frame of frames) {
    frame.addEventListener("scroll", () => mark(frame), { passive: true });
    seen.observe(frame);
    for (const inner of frame.children) seen.observe(inner);
  }
  // The text view fills its frame later.
  const tokens = document.getElementById("tokens");
  if (tokens) new MutationObserver(() => mark(tokens)).observe(tokens, { childList: true });
}

// A drawing is one stop of the Tab key; the arrow keys go from mark to mark. ``next`` gives the mark
// that a key leads to from another one or from none, ``show`` says what it is.
function walk(svg, next, show, hide) {
  let at = null;
  const go = (key) => {
    const to = next(at, key);
    if (to !== null) show((at = to));
  };
  svg.tabIndex = 0;
  svg.setAttribute("aria-describedby", "hint");
  svg.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    if (!/^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key)) return;
    event.preventDefault();
    document.getElementById("hint").setAttribute("role", "status");
    go(event.key);
  });
  svg.addEventListener("focus", () => { if (svg.matches(":focus-visible")) go(""); });
  svg.addEventListener("blur", hide);
}

// Shows a hint at a box of the screen, as if the pointer were there.
function showHintAt(box, ...content) {
  const [x, y] = [box.left + box.width / 2, box.top];
  showHint({ pageX: x + scrollX, pageY: y + scrollY, clientY: y }, ...content);
}

function hideHint() {
  document.getElementById("hint").hidden = true;
}

// Charts: the reading of a mark, from left to right and from above down.
for (const svg of document.querySelectorAll(".chart svg:not(.map, .cloud)")) {
  const marks = Array.from(svg.querySelectorAll("[data-tip]"));
  if (!marks.length) continue;
  const place = (mark) => {
    const box = mark.getBoundingClientRect();
    return [Math.round(box.left + box.width / 2), Math.round(box.top + box.height / 2)];
  };
  const unmark = () => { for (const mark of svg.querySelectorAll(".at")) mark.classList.remove("at"); };
  walk(
    svg,
    (from, key) => {
      const [main, other] = /Up|Down/.test(key) ? [1, 0] : [0, 1];
      const order = marks
        .map((mark) => ({ mark, at: place(mark) }))
        .sort((a, b) => a.at[main] - b.at[main] || a.at[other] - b.at[other])
        .map((one) => one.mark);
      if (key === "End") return order[order.length - 1];
      if (from === null || key === "Home") return order[0];
      const step = key === "" ? 0 : /Left|Up/.test(key) ? -1 : 1;
      return order[order.indexOf(from) + step] ?? null;
    },
    (mark) => {
      unmark();
      mark.classList.add("at");
      mark.scrollIntoView({ block: "nearest", inline: "nearest" });
      showHintAt(mark.getBoundingClientRect(), mark.dataset.tip);
    },
    () => {
      unmark();
      hideHint();
    },
  );
}
// Terms: what one means, also by keyboard.
document.addEventListener("focusin", (event) => {
  const term = event.target.closest("dfn");
  if (!term) return;
  document.getElementById("hint").setAttribute("role", "status");
  showHintAt(term.getBoundingClientRect(), term.dataset.tip);
});
document.addEventListener("focusout", (event) => { if (event.target.matches("dfn")) hideHint(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideHint(); });

// Charts and terms: what is under the pointer.
onPoint((event, target) => {
  const mark = target?.closest("[data-tip]");
  if (mark) showHint(event, mark.dataset.tip);
  else if (event.pointerType !== "mouse" || !document.activeElement?.matches("svg:focus-visible")) hideHint();
});
