const { tasks, gains, seeds, methods, scores, clouds } = JSON.parse(document.getElementById("transfer").textContent);
const shown = (value) => {
  if (value === null) return "none";
  const digits = Math.abs(value) >= 1000 ? 0 : Math.abs(value) >= 1 ? 3 : 4;
  const small = value !== 0 && Math.abs(value) < 0.001;
  return (small ? value.toExponential(2) : value.toFixed(digits)).replace("-", "−");
};
const gainLine = (at) => {
  const each = seeds.length > 1 ? ` (${seeds.map((seed) => shown(seed[at])).join(", ")})` : "";
  return `gain ${shown(gains[at])} nats${each}`;
};
const pairName = (at) => {
  const [source, target] = [Math.floor(at / tasks.length), at % tasks.length];
  return source === target ? `${tasks[source]} on itself` : `${tasks[source]} → ${tasks[target]}`;
};

// A point's lines, for points.js.
function describe(cloud, i) {
  const at = clouds[cloud].pair[i];
  return [pairName(at), gainLine(at), `${methods[cloud]} ${shown(scores[cloud][at])}`];
}

// The chosen method.
{
  const chooser = document.getElementById("method");
  const choose = () => {
    for (const part of document.querySelectorAll("[data-method]")) {
      part.hidden = part.dataset.method !== chooser.value;
    }
  };
  if (chooser) {
    chooser.parentElement.hidden = false;
    chooser.addEventListener("change", choose);
    choose();
  }

  // Maps: the numbers of the cell under the pointer, which is outlined in both.
  const hint = document.getElementById("hint");
  const fields = Array.from(document.querySelectorAll(".map .field"));
  const last = tasks.length - 1;

  function outline(row, column) {
    for (const field of fields) {
      const cursor = field.previousElementSibling;
      cursor.classList.toggle("at", row !== null);
      if (row === null) continue;
      const cell = Number(field.getAttribute("width")) / tasks.length;
      cursor.setAttribute("x", Number(field.getAttribute("x")) + column * cell);
      cursor.setAttribute("y", Number(field.getAttribute("y")) + row * cell);
    }
  }

  const show = (event) => {
    const field = event.target instanceof Element && event.target.closest(".map .field");
    if (!field) {
      outline(null, null);
      return;
    }
    const box = field.getBoundingClientRect();
    const index = (offset, length) =>
      Math.max(0, Math.min(last, Math.floor((offset / length) * tasks.length)));
    const row = index(event.clientY - box.top, box.height);
    const column = index(event.clientX - box.left, box.width);
    const at = row * tasks.length + column;
    hint.replaceChildren(element("b", "", pairName(at)), `\n${gainLine(at)}`);
    if (chooser) hint.append(`\n${methods[chooser.value]} ${shown(scores[chooser.value][at])}`);
    outline(row, column);
    hint.hidden = false;
    const edge = scrollX + document.documentElement.clientWidth - hint.offsetWidth - 6;
    hint.style.left = `${Math.max(scrollX + 6, Math.min(event.pageX + 16, edge))}px`;
    const above = event.clientY > hint.offsetHeight + 24;
    hint.style.top = `${above ? event.pageY - hint.offsetHeight - 14 : event.pageY + 20}px`;
  };
  for (const kind of ["pointermove", "pointerdown"]) document.addEventListener(kind, show);
}
