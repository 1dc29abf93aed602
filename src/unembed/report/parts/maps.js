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
