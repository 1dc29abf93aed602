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

// The lines of a cell's hint, for maps.js.
function describeCell(row, column) {
  const at = row * tasks.length + column;
  const score = chooser && `\n${methods[chooser.value]} ${shown(scores[chooser.value][at])}`;
  return [element("b", "", pairName(at)), `\n${gainLine(at)}`, score ?? ""];
}

// The chosen method.
const chooser = document.getElementById("method");
{
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
}
