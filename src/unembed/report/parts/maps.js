// Maps: what the cell under the pointer holds, which is outlined in every map. The page defines
// ``describeCell``, which gives the content of a cell's hint, and ``tasks``, as many as a side has.
{
  const fields = Array.from(document.querySelectorAll(".map .field"));

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

  // By keyboard: a cell at a time.
  for (const field of fields) {
    const last = tasks.length - 1;
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    walk(
      field.ownerSVGElement,
      (from, key) => {
        if (key === "End") return [last, last];
        if (from === null || key === "Home") return [0, 0];
        const [down, right] = steps[key] ?? [0, 0];
        const inside = (at) => Math.max(0, Math.min(last, at));
        return [inside(from[0] + down), inside(from[1] + right)];
      },
      ([row, column]) => {
        outline(row, column);
        const cursor = field.previousElementSibling;
        cursor.scrollIntoView({ block: "nearest", inline: "nearest" });
        showHintAt(cursor.getBoundingClientRect(), ...describeCell(row, column));
      },
      () => {
        outline(null, null);
        hideHint();
      },
    );
  }

  onPoint((event, target) => {
    const field = target?.closest(".map .field");
    if (!field) {
      outline(null, null);
      return;
    }
    const box = field.getBoundingClientRect();
    const index = (offset, length) =>
      Math.max(0, Math.min(tasks.length - 1, Math.floor((offset / length) * tasks.length)));
    const row = index(event.clientY - box.top, box.height);
    const column = index(event.clientX - box.left, box.width);
    outline(row, column);
    showHint(event, ...describeCell(row, column));
  });
}
