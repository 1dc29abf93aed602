// Maps: the numbers of the cell under the pointer, which is outlined in every map.
{
  const { tasks, kinds } = JSON.parse(document.getElementById("alignments").textContent);
  const hint = document.getElementById("hint");
  const fields = Array.from(document.querySelectorAll(".map .field"));
  const last = tasks.length - 1;

  // The place of a pair among (0, 1), (0, 2), … (1, 2), …
  const placeOf = (a, b) => {
    const [i, j] = a < b ? [a, b] : [b, a];
    return i * tasks.length - (i * (i + 1)) / 2 + (j - i - 1);
  };
  const cosine = (value) => (value / 1000).toFixed(3).replace("-", "−");

  function error(name, value) {
    if (value === 0) return `no ${name} error`;
    return value === null ? `${name} error not known` : `${name} ± ${cosine(value)}`;
  }

  function reasons(row, column) {
    const found = [tasks[row], tasks[column]].filter((task) => task.status);
    return found.map((task) => `${task.name}: ${task.status}`).join("\n");
  }

  function fill(row, column) {
    if (row === column) {
      const task = tasks[row];
      hint.replaceChildren(element("b", "", task.name), `\n${task.facts}`);
      if (task.status) hint.append(`\n${task.status}`);
      return;
    }
    const at = placeOf(row, column);
    hint.replaceChildren(element("b", "", `${tasks[row].name} · ${tasks[column].name}`));
    let missing = false;
    for (const kind of Object.values(kinds)) {
      if (kind.value[at] === null) {
        missing = true;
        continue;
      }
      const bounds = kind.low[at] === null || kind.high[at] === null
        ? "" : ` (${cosine(kind.low[at])} to ${cosine(kind.high[at])})`;
      hint.append(
        `\n${kind.name} ${cosine(kind.value[at])}${bounds}\n`,
        element("small", "", `${error("sketch", kind.sketch_se[at])}, ${error("sampling", kind.sampling_se[at])}`),
      );
    }
    const why = reasons(row, column);
    if (why) hint.append(`\n${why}`);
    else if (missing) hint.append("\nwhat is absent was not estimated");
  }

  function outline(row, column) {
    for (const field of fields) {
      const cursor = field.previousElementSibling;
      cursor.classList.toggle("at", row !== null);
      if (row === null) continue;
      const side = Number(cursor.getAttribute("width"));
      const cell = Number(field.getAttribute("width")) / tasks.length;
      cursor.setAttribute("x", Number(field.getAttribute("x")) + column * cell + (cell - side) / 2);
      cursor.setAttribute("y", Number(field.getAttribute("y")) + row * cell + (cell - side) / 2);
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
    fill(row, column);
    outline(row, column);
    hint.hidden = false;
    const width = document.documentElement.clientWidth;
    const left = Math.min(event.pageX + 16, scrollX + width - hint.offsetWidth - 6);
    const above = event.clientY > hint.offsetHeight + 24;
    hint.style.left = `${Math.max(scrollX + 6, left)}px`;
    hint.style.top = `${above ? event.pageY - hint.offsetHeight - 14 : event.pageY + 20}px`;
  };
  for (const kind of ["pointermove", "pointerdown"]) document.addEventListener(kind, show);
}
