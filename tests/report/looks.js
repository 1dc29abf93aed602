// What is wrong with how a page looks: an object of lists of words, by the kind of fault.
() => {
  const root = document.documentElement;
  const shown = (one) => {
    // Vega hides labels that would overlap by their opacity.
    if (one.getAttribute("opacity") === "0") return false;
    if (!one.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })) return false;
    return !one.closest(".unseen, noscript, script, style, option, [hidden]");
  };
  const name = (one) => {
    const classes = (one.getAttribute("class") ?? "").split(" ").filter(Boolean).join(".");
    const owner = one.closest("[id]")?.id ?? "";
    return `#${owner} ${one.tagName.toLowerCase()}${classes && "." + classes}`;
  };
  const short = (text) => JSON.stringify(text.trim().slice(0, 40));

  // Every piece of text that is seen, with its element.
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (node.data.trim() && shown(node.parentElement)) texts.push({ node, one: node.parentElement });
  }

  const tiny = [];
  for (const { node, one } of texts) {
    const svg = one.closest("svg");
    const matrix = svg && one.getScreenCTM();
    const scale = matrix ? Math.hypot(matrix.a, matrix.b) : 1;
    const size = parseFloat(getComputedStyle(one).fontSize) * scale;
    if (size < 10.99) tiny.push(`${size.toFixed(1)} px: ${name(one)} ${short(node.data)}`);
  }
  for (const one of document.querySelectorAll("main *")) {
    for (const place of ["::before", "::after"]) {
      const style = getComputedStyle(one, place);
      if (!/^"[^"]/.test(style.content) || !shown(one)) continue;
      if (parseFloat(style.fontSize) < 10.99) tiny.push(`${style.fontSize}: ${name(one)}${place}`);
    }
  }

  // Cut: what is wider than its box without a cue that it scrolls, or sticks out of the page.
  const cut = [];
  if (root.scrollWidth > root.clientWidth) cut.push(`page ${root.scrollWidth} > ${root.clientWidth}`);
  const scrolls = (one) => /auto|scroll/.test(getComputedStyle(one).overflowX);
  for (const one of document.querySelectorAll("body *")) {
    if (!(one instanceof HTMLElement) || !shown(one) || one.tagName === "SELECT") continue;
    const style = getComputedStyle(one);
    if (style.display === "inline" || one.tagName === "INPUT") continue;
    const across = one.scrollWidth - one.clientWidth;
    const down = one.scrollHeight - one.clientHeight;
    if (scrolls(one)) {
      if ((across > 1 || down > 1) && style.maskImage === "none") cut.push(`no cue: ${name(one)}`);
      if ((across > 1 || down > 1) && one.tabIndex < 0 && !one.querySelector("[tabindex='0'], button, input")) {
        cut.push(`cannot be scrolled by keyboard: ${name(one)}`);
      }
    } else if (style.overflowX !== "visible" && (across > 1 || down > 1) && style.textOverflow !== "ellipsis") {
      cut.push(`hidden ${across} ${down}: ${name(one)} ${short(one.textContent)}`);
    } else if (across > 1 && one.clientWidth && !one.matches(".ticks, .plot, .plot div") && !one.closest("svg") && !one.querySelector(".plot, svg, table")) {
      cut.push(`out of its box by ${across}: ${name(one)} ${short(one.textContent)}`);
    }
  }
  const range = document.createRange();
  const boxesOf = (node) => {
    range.selectNodeContents(node);
    return Array.from(range.getClientRects()).filter((box) => box.width > 0.5);
  };
  for (const { node, one } of texts) {
    const frame = one.parentElement.closest(".scroll, #tokens, .groups");
    if (frame) continue;
    for (const box of boxesOf(node)) {
      if (box.right > root.clientWidth + 1 || box.left < -1) {
        cut.push(`${box.left.toFixed(0)} to ${box.right.toFixed(0)}: ${name(one)} ${short(node.data)}`);
      }
    }
  }
  for (const { node, one } of texts) {
    if (one.closest("svg, .long, .scroll pre")) continue;
    const words = /^[+−]?[\d.,]+\u00a0(pp|%)$/.exec(node.data.trim());
    if (words && boxesOf(node).length > 1) cut.push(`broken in a line: ${name(one)} ${short(node.data)}`);
  }

  // Overlap: the four corners of every text of a drawing or a table, those of two never in each other.
  const overlap = [];
  const cornersOf = (one) => {
    const box = one.getBBox();
    // Letters fill the middle of a line's height.
    const top = box.y + 0.22 * box.height;
    const bottom = box.y + 0.8 * box.height;
    const matrix = one.getScreenCTM();
    return [[box.x, top], [box.x + box.width, top], [box.x + box.width, bottom], [box.x, bottom]].map(
      ([x, y]) => new DOMPoint(x, y).matrixTransform(matrix),
    );
  };
  const apart = (a, b) => {
    for (const shape of [a, b]) {
      for (let i = 0; i < 4; i++) {
        const [p, q] = [shape[i], shape[(i + 1) % 4]];
        const [nx, ny] = [q.y - p.y, p.x - q.x];
        const along = (corners) => corners.map((c) => nx * c.x + ny * c.y);
        const [of, other] = [along(a), along(b)];
        const slack = 0.5 * Math.hypot(nx, ny);
        if (Math.max(...of) < Math.min(...other) + slack || Math.max(...other) < Math.min(...of) + slack) return true;
      }
    }
    return false;
  };
  const compare = (found, where) => {
    found.sort((a, b) => a.low - b.low);
    for (let i = 0; i < found.length; i++) {
      for (let j = i + 1; j < found.length && found[j].low < found[i].high; j++) {
        if (apart(found[i].corners, found[j].corners)) continue;
        overlap.push(`${where}: ${short(found[i].words)} and ${short(found[j].words)}`);
      }
    }
  };
  const piece = (corners, words) => {
    const across = corners.map((corner) => corner.x);
    return { corners, words, low: Math.min(...across), high: Math.max(...across) };
  };
  for (const svg of document.querySelectorAll("svg")) {
    if (!shown(svg)) continue;
    const found = Array.from(svg.querySelectorAll("text")).filter((one) => one.textContent.trim() && shown(one));
    compare(found.map((one) => piece(cornersOf(one), one.textContent)), name(svg));
  }
  const corners = (box) => {
    const [top, bottom] = [box.top + 0.2 * box.height, box.bottom - 0.2 * box.height];
    return [[box.left, top], [box.right, top], [box.right, bottom], [box.left, bottom]].map(([x, y]) => ({ x, y }));
  };
  for (const frame of document.querySelectorAll("table, header, .cards, .keys, .controls, .groups")) {
    const found = [];
    for (const { node, one } of texts) {
      if (!frame.contains(one) || one.closest("svg, .long thead, .side thead, details thead, #tasks thead")) continue;
      for (const box of boxesOf(node)) found.push(piece(corners(box), node.data));
    }
    compare(found, name(frame));
  }

  return { tiny, cut, overlap };
}
