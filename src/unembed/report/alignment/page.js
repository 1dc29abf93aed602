const { tasks, kinds } = JSON.parse(document.getElementById("alignments").textContent);

// The lines of a cell's hint, for maps.js.
function describeCell(row, column) {
  const reasons = [tasks[row], tasks[column]].filter((task) => task.status);
  if (row === column) {
    const task = tasks[row];
    return [element("b", "", task.name), `\n${task.facts}`, task.status && `\n${task.status}`];
  }
  // The place of a pair among (0, 1), (0, 2), … (1, 2), …
  const [i, j] = row < column ? [row, column] : [column, row];
  const at = i * tasks.length - (i * (i + 1)) / 2 + (j - i - 1);
  const cosine = (value, places = 3) => (value / 1000).toFixed(places).replace("-", "−");
  // Value and bounds have the decimals that the interval supports, as everywhere.
  const supported = (half) => Math.min(3, Math.max(0, Math.ceil(-Math.log10(half / 2000))));
  const error = (name, value) => {
    if (value === 0) return `no ${name} error`;
    return value === null ? `${name} error not known` : `${name} ± ${cosine(value)}`;
  };
  const lines = [element("b", "", `${tasks[row].name} · ${tasks[column].name}`)];
  const known = Object.values(kinds).filter((kind) => kind.value[at] !== null);
  for (const kind of known) {
    const [value, low, high] = [kind.value[at], kind.low[at], kind.high[at]];
    const bounded = low !== null && high !== null;
    const places = bounded && high > low ? supported((high - low) / 2) : 3;
    const bounds = bounded ? `[${cosine(low, places)}, ${cosine(high, places)}]` : "(no interval)";
    const errors = [error("sketch", kind.sketch_se[at]), error("sampling", kind.sampling_se[at])];
    lines.push(`\n${kind.name} ${cosine(value, places)} ${bounds}\n`, element("small", "", errors.join(", ")));
  }
  for (const task of reasons) lines.push(`\n${task.name}: ${task.status}`);
  const missing = known.length < Object.keys(kinds).length;
  if (missing && !reasons.length) lines.push("\nwhat is absent is not determined");
  return lines;
}
