// Figures as SVG and PNG, tables as CSV, the summary as Markdown: made here, sent nowhere.
{
  const STYLES = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap",
    "stroke-opacity", "opacity", "font-size", "font-weight", "text-anchor", "display", "vector-effect"];
  const FAMILY = "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif";
  const slug = (text) => text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 60);

  // A computed colour as every program reads it.
  const brush = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const known = new Map();
  function plain(colour) {
    if (!/^(oklab|oklch|color|color-mix|lab)\(/.test(colour)) return colour;
    if (!known.has(colour)) {
      brush.clearRect(0, 0, 1, 1);
      brush.fillStyle = colour;
      brush.fillRect(0, 0, 1, 1);
      const [red, green, blue, alpha] = brush.getImageData(0, 0, 1, 1).data;
      known.set(colour, `rgba(${red}, ${green}, ${blue}, ${alpha / 255})`);
    }
    return known.get(colour);
  }

  function drawn(name, attributes, text) {
    const made = document.createElementNS(document.querySelector("svg").namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // The symbol of a key, as its look says.
  function symbol(look, x, y) {
    const style = getComputedStyle(look);
    const stops = style.backgroundImage.match(/(?:rgba?|oklab|color)\([^()]*\)/g);
    if (look.className.includes("ramp") && stops) {
      const group = drawn("g", {});
      for (let at = 0; at < 48; at += 1) {
        const along = (at / 47) * (stops.length - 1);
        const left = Math.min(Math.floor(along), stops.length - 2);
        const fill = plain(`color-mix(in oklab, ${stops[left + 1]} ${100 * (along - left)}%, ${stops[left]})`);
        group.append(drawn("rect", { x: x + 2 * at, y: y - 10, width: 2.3, height: 11, fill }));
      }
      return [group, 96];
    }
    const line = parseFloat(style.borderTopWidth);
    const edge = line ? plain(style.borderTopColor) : "none";
    if (look.offsetHeight <= 4) {
      const dash = style.borderTopStyle === "dashed" ? "5 3" : "none";
      return [drawn("path", { d: `M${x} ${y - 4}h22`, stroke: edge, "stroke-width": line, "stroke-dasharray": dash }), 22];
    }
    const filled = plain(stops ? stops[0] : style.backgroundColor);
    const turn = style.transform === "none" ? "" : `rotate(45 ${x + 5.5} ${y - 4.5})`;
    const round = style.borderRadius === "50%" ? 6 : 1;
    return [drawn("rect", { x, y: y - 10, width: 11, height: 11, rx: round, transform: turn, fill: filled, stroke: edge, "stroke-width": Math.min(line, 2) }), 11];
  }

  // The drawing on the screen with its title and its key, colours as they are now.
  function picture(figure, svg) {
    const box = svg.viewBox.baseVal;
    const width = Math.max(box.width, 300) + 24;
    const [ink, muted, paper] = ["--ink", "--muted", "--paper"].map((name) => {
      const probe = element("i");
      probe.style.color = `var(${name})`;
      document.body.append(probe);
      const colour = plain(getComputedStyle(probe).color);
      probe.remove();
      return colour;
    });
    const head = drawn("g", { "font-family": FAMILY, "font-size": 13 });
    const title = figure.querySelector("h3")?.textContent ?? "";
    head.append(drawn("text", { x: 12, y: 24, "font-size": 15, "font-weight": 600, fill: ink }, title));
    let [x, y] = [12, 46];
    const keys = Array.from(figure.querySelectorAll(".keys li"));
    for (const key of keys) {
      const wide = key.textContent.length * 7 + 40;
      if (x > 12 && x + wide > width) [x, y] = [12, y + 20];
      const [mark, room] = symbol(key.querySelector(".key"), x, y);
      head.append(mark, drawn("text", { x: x + room + 7, y, fill: muted }, key.textContent));
      x += wide + (room - 11);
    }
    const top = keys.length ? y + 14 : 38;
    const copy = svg.cloneNode(true);
    const [from, to] = [svg, copy].map((one) => [one, ...one.querySelectorAll("*")]);
    from.forEach((one, at) => {
      const style = getComputedStyle(one);
      for (const name of STYLES) {
        const value = style.getPropertyValue(name);
        if (value && value !== "none" || name === "fill" || name === "stroke" || name === "display") to[at].style.setProperty(name, plain(value));
      }
      for (const { name, value } of Array.from(to[at].attributes)) {
        if (/^(class|data-.*|tabindex)$/.test(name) || /^(var|color-mix)\(/.test(value)) to[at].removeAttribute(name);
      }
    });
    copy.removeAttribute("style");
    for (const [name, value] of Object.entries({ x: 12, y: top, width: box.width, height: box.height, "font-family": FAMILY, overflow: "visible" })) copy.setAttribute(name, value);
    const height = top + box.height + 12;
    const whole = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
    whole.append(drawn("rect", { width, height, fill: paper }), head, copy);
    return { text: new XMLSerializer().serializeToString(whole), width, height };
  }

  function save(name, blob) {
    const link = element("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  async function savePng(name, { text, width, height }) {
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    await image.decode();
    const canvas = element("canvas");
    [canvas.width, canvas.height] = [2 * width, 2 * height];
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => save(name, blob), "image/png");
  }

  const cell = (one) => `"${one.textContent.trim().replaceAll('"', '""')}"`;
  const csv = (table) => Array.from(table.rows, (row) => Array.from(row.cells, cell).join(",")).join("\r\n") + "\r\n";

  function markdown() {
    const words = (part) => part?.textContent.trim().replace(/\s+/g, " ").replace(/([\\`*_[\]<|])/g, "\\$1");
    const cards = Array.from(document.querySelectorAll("dl.cards > .card"), (card) => {
      const [value, interval, remark] = [".value, .none", ".interval", ".remark"].map((part) => words(card.querySelector(part)));
      return `- **${words(card.querySelector("dt"))}**: ${[value, interval].filter(Boolean).join(" ")}${remark ? ` (${remark})` : ""}`;
    });
    const head = [`### ${words(document.querySelector("h1"))}`, `**${words(document.querySelector(".reading"))}**`];
    return [...head, words(document.querySelector(".extent")), cards.join("\n")].filter(Boolean).join("\n\n") + "\n";
  }

  // Small buttons, each of which says what it saves.
  function buttons(...made) {
    const line = element("p", "save");
    for (const [label, says, act] of made) {
      const button = element("button", "", label);
      button.type = "button";
      button.setAttribute("aria-label", says);
      button.addEventListener("click", () => act(button));
      line.append(button);
    }
    return line;
  }

  for (const figure of document.querySelectorAll("figure")) {
    const charts = Array.from(figure.querySelectorAll(".chart"));
    const shown = () => charts.find((chart) => chart.offsetParent !== null)?.querySelector("svg");
    if (!charts.length) continue;
    const title = figure.querySelector("h3")?.textContent ?? "figure";
    charts.at(-1).after(buttons(
      ["SVG", `Save ${title} as SVG`, () => save(`${slug(title)}.svg`, new Blob([picture(figure, shown()).text], { type: "image/svg+xml" }))],
      ["PNG", `Save ${title} as PNG`, () => savePng(`${slug(title)}.png`, picture(figure, shown()))],
    ));
  }
  for (const table of document.querySelectorAll(".scroll > table")) {
    const title = table.caption?.textContent ?? "table";
    table.parentElement.after(buttons(
      ["CSV", `Save ${title} as CSV`, () => save(`${slug(title)}.csv`, new Blob([csv(table)], { type: "text/csv" }))],
    ));
  }
  const cards = document.querySelector("dl.cards:not(.terms)");
  cards?.after(buttons(["Copy as Markdown", "Copy the summary as Markdown", async (button) => {
    try {
      await navigator.clipboard.writeText(markdown());
      button.textContent = "Copied";
    } catch {
      save("summary.md", new Blob([markdown()], { type: "text/markdown" }));
      button.textContent = "Saved";
    }
  }]));
}
