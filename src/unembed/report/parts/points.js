// Points: the nearest one under the pointer says what it is; boxes of the key show and hide groups.
{
  const hidden = new Set();
  const reach = 14; // pixels on the screen

  // Where a point is in the drawing.
  function placeOf(svg, i) {
    const [left, top, width, height] = svg.dataset.box.split(" ").map(Number);
    const cloud = clouds[svg.dataset.cloud];
    return [left + (cloud.x[i] / 2000) * width, top + (cloud.y[i] / 2000) * height];
  }

  // Rings a point, and gives the content of its hint.
  function mark(svg, i, at) {
    const ring = svg.querySelector(".at");
    ring.setAttribute("cx", at[0]);
    ring.setAttribute("cy", at[1]);
    ring.style.display = "inline";
    const [name, ...lines] = describe(svg.dataset.cloud, i);
    return [element("b", "", name), lines.map((line) => `\n${line}`).join("")];
  }

  // The nearest visible point, and where it is in the drawing.
  function nearest(svg, event) {
    const screen = svg.getBoundingClientRect();
    const scale = screen.width / svg.viewBox.baseVal.width;
    const x = (event.clientX - screen.left) / scale;
    const y = (event.clientY - screen.top) / scale;
    const cloud = clouds[svg.dataset.cloud];
    let best = null;
    let least = (reach / scale) ** 2;
    cloud.x.forEach((across, i) => {
      if (hidden.has(cloud.group[i])) return;
      const at = placeOf(svg, i);
      const far = (at[0] - x) ** 2 + (at[1] - y) ** 2;
      if (far <= least) [best, least] = [{ i, at }, far];
    });
    return best;
  }

  onPoint((event, target) => {
    const svg = target?.closest(".cloud");
    for (const ring of document.querySelectorAll(".cloud .at")) ring.style.display = "none";
    const found = svg && nearest(svg, event);
    if (found) showHint(event, ...mark(svg, found.i, found.at));
  });

  // By keyboard: from point to point, across with left and right, up with up and down.
  for (const svg of document.querySelectorAll(".cloud")) {
    const cloud = clouds[svg.dataset.cloud];
    const ring = svg.querySelector(".at");
    walk(
      svg,
      (from, key) => {
        const shown = cloud.x.map((_, i) => i).filter((i) => !hidden.has(cloud.group[i]));
        const along = /Up|Down/.test(key) ? cloud.y : cloud.x;
        shown.sort((a, b) => along[a] - along[b] || a - b);
        if (key === "End") return shown[shown.length - 1] ?? null;
        if (from === null || key === "Home") return shown[0] ?? null;
        // Values in ``cloud.y`` are pixels, which grow downwards.
        const step = key === "" ? 0 : /Left|Up/.test(key) ? -1 : 1;
        return shown[shown.indexOf(from) + step] ?? null;
      },
      (i) => {
        const content = mark(svg, i, placeOf(svg, i));
        ring.scrollIntoView({ block: "nearest", inline: "nearest" });
        showHintAt(ring.getBoundingClientRect(), ...content);
      },
      () => {
        ring.style.display = "none";
        hideHint();
      },
    );
  }

  const boxes = Array.from(document.querySelectorAll("#groups input"));
  const toggle = () => {
    hidden.clear();
    for (const box of boxes) if (!box.checked) hidden.add(Number(box.value));
    for (const group of document.querySelectorAll(".cloud [data-group]")) {
      group.style.display = hidden.has(Number(group.dataset.group)) ? "none" : "";
    }
  };
  for (const box of boxes) box.addEventListener("change", toggle);
  for (const button of document.querySelectorAll("#groups button")) {
    button.addEventListener("click", () => {
      for (const box of boxes) box.checked = button.value === "all";
      toggle();
    });
  }
  // Names that hold what is looked for are drawn in ink, the rest fades.
  const find = document.getElementById("find");
  find?.addEventListener("input", () => {
    const part = find.value.trim().toLowerCase();
    let count = 0;
    for (const svg of document.querySelectorAll(".cloud")) {
      const [left, top, width, height] = svg.dataset.box.split(" ").map(Number);
      const cloud = clouds[svg.dataset.cloud];
      let dots = "";
      count = 0;
      cloud.x.forEach((across, i) => {
        if (!part || !describe(svg.dataset.cloud, i)[0].toLowerCase().includes(part)) return;
        dots += `M${left + (across / 2000) * width} ${top + (cloud.y[i] / 2000) * height}h0`;
        count += 1;
      });
      svg.querySelector(".hits").setAttribute("d", dots);
      svg.classList.toggle("searching", part !== "");
    }
    document.getElementById("found").textContent = part ? `${count.toLocaleString("en")} found` : "";
  });

  // The browser may have kept boxes from before a reload.
  toggle();
}
