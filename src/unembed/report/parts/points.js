// Points: the nearest one under the pointer says what it is; boxes of the key show and hide groups.
{
  const hidden = new Set();
  const reach = 14; // pixels on the screen

  // The nearest visible point, and where it is in the drawing.
  function nearest(svg, event) {
    const screen = svg.getBoundingClientRect();
    const scale = screen.width / svg.viewBox.baseVal.width;
    const [left, top, width, height] = svg.dataset.box.split(" ").map(Number);
    const x = (event.clientX - screen.left) / scale;
    const y = (event.clientY - screen.top) / scale;
    const cloud = clouds[svg.dataset.cloud];
    let best = null;
    let least = (reach / scale) ** 2;
    cloud.x.forEach((across, i) => {
      if (hidden.has(cloud.group[i])) return;
      const at = [left + (across / 2000) * width, top + (cloud.y[i] / 2000) * height];
      const far = (at[0] - x) ** 2 + (at[1] - y) ** 2;
      if (far <= least) [best, least] = [{ i, at }, far];
    });
    return best;
  }

  onPoint((event, target) => {
    const svg = target?.closest(".cloud");
    for (const ring of document.querySelectorAll(".cloud .at")) ring.style.display = "none";
    const found = svg && nearest(svg, event);
    if (!found) return;
    const ring = svg.querySelector(".at");
    ring.setAttribute("cx", found.at[0]);
    ring.setAttribute("cy", found.at[1]);
    ring.style.display = "inline";
    const [name, ...lines] = describe(svg.dataset.cloud, found.i);
    showHint(event, element("b", "", name), lines.map((line) => `\n${line}`).join(""));
  });

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
