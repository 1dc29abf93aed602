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
  const cosine = (value) => (value / 1000).toFixed(3).replace("-", "−");
  const error = (name, value) => {
    if (value === 0) return `no ${name} error`;
    return value === null ? `${name} error not known` : `${name} ± ${cosine(value)}`;
  };
  const lines = [element("b", "", `${tasks[row].name} · ${tasks[column].name}`)];
  const known = Object.values(kinds).filter((kind) => kind.value[at] !== null);
  for (const kind of known) {
    const bounds = kind.low[at] === null || kind.high[at] === null
      ? "" : ` (${cosine(kind.low[at])} to ${cosine(kind.high[at])})`;
    const errors = [error("sketch", kind.sketch_se[at]), error("sampling", kind.sampling_se[at])];
    lines.push(`\n${kind.name} ${cosine(kind.value[at])}${bounds}\n`, element("small", "", errors.join(", ")));
  }
  for (const task of reasons) lines.push(`\n${task.name}: ${task.status}`);
  const missing = known.length < Object.keys(kinds).length;
  if (missing && !reasons.length) lines.push("\nwhat is absent was not estimated");
  return lines;
}
