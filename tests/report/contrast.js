// Every pair of a text's colour and what is behind it that reads badly: below 4.5 to 1.
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const rgba = (colour) => {
    if (!known.has(colour)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      known.set(colour, [r, g, b, a / 255]);
    }
    return known.get(colour);
  };
  const over = (top, under) => top.slice(0, 3).map((part, i) => part * top[3] + under[i] * (1 - top[3]));
  const light = (colour) => {
    const [r, g, b] = colour.map((part) => {
      const one = part / 255;
      return one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => {
    const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const groundOf = (one) => {
    const layers = [];
    for (let at = one; at; at = at.parentElement) {
      if (at instanceof HTMLElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    }
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const opacityOf = (one) => {
    let all = 1;
    for (let at = one; at; at = at.parentElement) all *= parseFloat(getComputedStyle(at).opacity);
    return all;
  };
  // The last shape drawn before a text that covers its middle.
  const shapeUnder = (text, svg) => {
    const box = text.getBBox();
    const middle = new DOMPoint(box.x + box.width / 2, box.y + box.height / 2).matrixTransform(text.getScreenCTM());
    let colour = null;
    for (const shape of svg.querySelectorAll("path, rect, circle")) {
      if (text.compareDocumentPosition(shape) & Node.DOCUMENT_POSITION_FOLLOWING) break;
      const style = getComputedStyle(shape);
      if (style.display === "none") continue;
      const at = middle.matrixTransform(shape.getScreenCTM().inverse());
      if (style.fill !== "none" && shape.isPointInFill(at)) colour = [style.fill, style.fillOpacity];
      if (style.stroke !== "none" && shape.closest(".cells") && shape.isPointInStroke(at) && !shape.matches(".gaps, .hatch")) {
        colour = [style.stroke, style.strokeOpacity];
      }
    }
    return colour;
  };
  const bad = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    const words = walker.currentNode.data.trim();
    if (!words || one.closest(".unseen, noscript, script, style, option, [hidden]") || !one.checkVisibility()) continue;
    if (one.getAttribute("opacity") === "0") continue;
    const style = getComputedStyle(one);
    const svg = one.closest("svg");
    let ground = groundOf(one);
    if (svg) {
      const under = shapeUnder(one, svg);
      if (under) {
        const [r, g, b, a] = rgba(under[0]);
        ground = over([r, g, b, a * under[1]], ground);
      }
    }
    const [r, g, b, a] = rgba(svg ? style.fill : style.color);
    const ink = over([r, g, b, a * opacityOf(one) * (svg ? style.fillOpacity : 1)], ground);
    const found = ratio(ink, ground);
    if (found < 4.495) {
      const classes = one.getAttribute("class") ?? "";
      bad.add(`${found.toFixed(2)}: #${one.closest("[id]")?.id ?? ""} ${one.tagName} ${classes} ${JSON.stringify(words.slice(0, 30))}`);
    }
  }
  return Array.from(bad);
}
