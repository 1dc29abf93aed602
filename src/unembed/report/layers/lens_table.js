// Logit-lens table: a row for each depth, the last one on top, a column for each token of the text.
const kept = document.getElementById("passages");
if (kept) {
  const { strings, documents: passages } = JSON.parse(kept.textContent);
  const [table, details, chooser, find, found] = ["depths-table", "cell-details", "passage", "find-token", "tokens-found"]
    .map((id) => document.getElementById(id));
  const WIDEST = 5000; // thousandths of a logit: from here on a cell has the strongest colour
  let passage;
  let lens;
  let cells = []; // by row, then by column; row 0 is the last depth
  let reachable = [0, 0];
  let opened = null;

  passages.forEach((one, i) => {
    const option = element("option", "", Array.from(one.name, (c) => (UNSEEN.test(c) ? codePoint(c) : c)).join(""));
    option.value = i;
    chooser.append(option);
  });

  // Row 0 of the table is the last of the depths.
  const deep = (row) => passage.depths.length - 1 - row;
  const isSame = (row, column) => lens.same[deep(row)][column] === "1";
  const settledFrom = (column) => {
    let row = 0;
    while (row + 1 < passage.depths.length && isSame(row + 1, column)) row += 1;
    return isSame(0, column) ? row : -1;
  };

  function close() {
    if (opened === null) return;
    opened.classList.remove("open");
    opened.removeAttribute("aria-describedby");
    details.hidden = true;
    opened = null;
  }

  function open(row, column) {
    close();
    opened = cells[row][column];
    opened.classList.add("open");
    opened.setAttribute("aria-describedby", "cell-details");
    fill(row, column);
    place(details, opened.getBoundingClientRect());
  }

  function fill(row, column) {
    const at = deep(row);
    const target = strings[passage.text[column]];
    const head = element("p", "of-cell", `depth ${passage.depths[at]}, where the text goes on with `);
    head.append(write(element("bdi"), target, false));
    details.replaceChildren(head);
    if (lens.margin[at][column] === null) {
      details.append(element("p", "", "The logits of this position were not finite at some depth: it has no statistics."));
      return;
    }
    const list = element("ul", "candidates");
    const pairs = lens.candidates[at][column];
    for (let c = 0; c < pairs.length; c += 2) {
      list.append(candidate(strings[pairs[c]], pairs[c + 1] / 1000, pairs[c] === passage.text[column]));
    }
    details.append(list);
    const figures = element("dl", "figures-of-token");
    const add = (name, value) => figures.append(element("dt", "", name), element("dd", "", value));
    add("margin", `${(lens.margin[at][column] / 1000).toFixed(3)} logits`);
    add("rank of the model’s choice", lens.rank[at][column].toLocaleString("en"));
    details.append(figures);
  }

  function cellOf(row, column) {
    const at = deep(row);
    const cell = element("td");
    cell.setAttribute("role", "gridcell");
    cell.tabIndex = -1;
    cell.dataset.at = `${row} ${column}`;
    const margin = lens.margin[at][column];
    if (margin === null) {
      cell.classList.add("broken");
      cell.append("–");
      return cell;
    }
    // Square root: the eye should part 0.1 from 0.5 as readily as 2 from 4.
    cell.style.setProperty("--sure", `${Math.round(100 * Math.sqrt(Math.min(1, margin / WIDEST)))}%`);
    if (isSame(row, column)) cell.classList.add("as-final");
    const from = settledFrom(column);
    const beside = column ? settledFrom(column - 1) : null;
    if (row === from) cell.classList.add("edge-below");
    if (beside !== null && (row <= from) !== (row <= beside)) cell.classList.add("edge-left");
    const text = element("bdi");
    text.dir = "auto";
    cell.append(write(text, strings[lens.candidates[at][column][0]], false));
    return cell;
  }

  // Draws the passage under the lens, and keeps the place where the reader was.
  function draw() {
    close();
    passage = passages[Number(chooser.value)];
    const chosen = document.querySelector("input[name=lens]:checked");
    lens = passage.lenses[chosen ? chosen.value : Object.keys(passage.lenses)[0]];
    const head = element("tr");
    const corner = element("th", "", "depth");
    corner.scope = "col";
    head.append(corner);
    passage.text.forEach((id, column) => {
      const top = element("th");
      top.scope = "col";
      top.append(write(element("bdi"), strings[id], false));
      // Where the model itself decides for another token.
      if (passage.right[column] === "0") top.classList.add("wrong-token");
      head.append(top);
    });
    const body = element("tbody");
    cells = passage.depths.map((_, row) => {
      const line = element("tr");
      const title = element("th", "", String(passage.depths[deep(row)]));
      title.scope = "row";
      line.append(title);
      const made = passage.text.map((_, column) => cellOf(row, column));
      line.append(...made);
      body.append(line);
      return made;
    });
    const top = element("thead");
    top.append(head);
    table.querySelectorAll("thead, tbody").forEach((part) => part.remove());
    table.append(top, body);
    document.getElementById("passage-before").replaceChildren(
      "Before it: ", write(element("bdi"), passage.before, false),
    );
    reach(Math.min(reachable[0], cells.length - 1), Math.min(reachable[1], passage.text.length - 1));
    search();
  }

  // One cell at a time is in the tab order; the arrow keys move it.
  function reach(row, column) {
    const before = cells[reachable[0]]?.[reachable[1]];
    if (before) before.tabIndex = -1;
    reachable = [row, column];
    cells[row][column].tabIndex = 0;
  }

  function go(row, column) {
    if (!cells[row]?.[column]) return;
    cells[row][column].focus();
  }

  const wanted = () => find.value.trim().toLowerCase();
  const matches = (row, column) => {
    const pairs = lens.candidates[deep(row)][column];
    return pairs.length > 0 && strings[pairs[0]].toLowerCase().includes(wanted());
  };

  function search() {
    let count = 0;
    cells.forEach((line, row) => line.forEach((cell, column) => {
      const hit = wanted() !== "" && matches(row, column);
      cell.classList.toggle("hit", hit);
      count += hit;
    }));
    found.textContent = wanted() ? `${count.toLocaleString("en")} found` : "";
  }

  // The next cell that leads with what is looked for, column by column, each from the last depth down.
  function next() {
    const [rows, columns] = [cells.length, passage.text.length];
    const from = reachable[1] * rows + reachable[0];
    for (let step = 1; step <= rows * columns; step += 1) {
      const at = (from + step) % (rows * columns);
      const [row, column] = [at % rows, Math.floor(at / rows)];
      if (matches(row, column)) return go(row, column);
    }
  }

  const placeOf = (event) => {
    const cell = event.target instanceof Element && event.target.closest("td");
    return cell ? cell.dataset.at.split(" ").map(Number) : null;
  };
  table.addEventListener("keydown", (event) => {
    const at = placeOf(event);
    if (at === null) return;
    const [row, column] = at;
    const [bottom, end] = [cells.length - 1, passage.text.length - 1];
    const moves = {
      ArrowRight: [row, column + 1],
      ArrowLeft: [row, column - 1],
      ArrowDown: [row + 1, column],
      ArrowUp: [row - 1, column],
      Home: [row, 0],
      End: [row, end],
      PageUp: [0, column],
      PageDown: [bottom, column],
    };
    if (event.key === "Enter" && wanted()) next();
    else if (event.key in moves) go(...moves[event.key]);
    else return;
    event.preventDefault();
  });
  table.addEventListener("focusin", (event) => {
    const at = placeOf(event);
    if (at === null) return;
    reach(...at);
    cells[at[0]][at[1]].scrollIntoView({ block: "nearest", inline: "nearest" });
    open(...at);
  });
  table.addEventListener("focusout", close);
  table.addEventListener("pointerover", (event) => {
    const at = placeOf(event);
    if (at !== null && event.pointerType === "mouse") open(...at);
  });
  table.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") close();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    const typing = event.target instanceof Element && event.target.matches("input:not([type=radio], [type=checkbox], [type=range]), select, textarea");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    table.closest("details")?.setAttribute("open", "");
    find.focus();
    find.select();
  });
  find.addEventListener("input", search);
  find.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !wanted()) return;
    event.preventDefault();
    next();
  });
  chooser.addEventListener("change", () => { reachable = [0, 0]; draw(); });
  for (const radio of document.querySelectorAll("input[name=lens]")) radio.addEventListener("change", draw);
  draw();
}
