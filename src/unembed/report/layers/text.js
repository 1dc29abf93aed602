{% extends "parts/text.js" %}
{% block controls %}
  const threshold = document.getElementById("threshold");
  const blocks = Number(threshold.max);
{% endblock %}
{% block details %}
  function fill(i) {
    const right = current.right[i] === "1";
    const verdict = right ? "right" : "wrong";
    const head = element("div", "target");
    head.append(write(element("bdi"), strings[current.text[i]], false), element("span", `verdict is-${verdict}`, verdict));
    details.replaceChildren(head);
    if (current.depth[i] === null) {
      details.append(element("p", "", "The logits of this position were not finite at some depth: it has no statistics."));
      return;
    }
    const way = element("ol", "way");
    const path = current.path[i];
    for (let at = path.length - 2; at >= 0; at -= 2) {
      const last = at + 2 < path.length ? path[at + 2] - 1 : blocks;
      const item = element("li");
      const depths = path[at] >= last ? `${path[at]}` : `${path[at]} to ${last}`;
      item.append(element("span", "", `depth ${depths}`), write(element("bdi"), strings[path[at + 1]], false));
      if (at === path.length - 2) item.className = "is-settled";
      way.append(item);
    }
    const figures = element("dl", "figures-of-token");
    const add = (name, value) => figures.append(element("dt", "", name), element("dd", "", value));
    add("settles at depth", `${current.depth[i]} of ${blocks}`);
    add("final margin", `${(current.margin[i] / 1000).toFixed(3)} logits`);
    details.append(way, figures);
  }
{% endblock %}
{% block lead %}
    fragment.append(write(element("bdi", "lead-token"), current.lead, true));
{% endblock %}
{% block look %}
      const depth = current.depth[i];
      const token = element("bdi", depth === null ? "token broken" : "token");
      if (current.right[i] === "0") token.classList.add("wrong-token");
      if (depth !== null && blocks) token.style.setProperty("--narrowness", `${Math.round((100 * depth) / blocks)}%`);
{% endblock %}
{% block matches %}
  function matches(i, kind) {
    if (kind === "wrong") return current.right[i] === "0";
    if (kind === "late") return current.depth[i] !== null && current.depth[i] >= Number(threshold.value);
    return true;
  }
{% endblock %}
{% block filter %}
    document.getElementById("late-from").textContent = threshold.value;
{% endblock %}
{% block listen %}
  threshold.addEventListener("input", () => {
    document.querySelector("input[name=filter][value=late]").checked = true;
    filter();
  });
{% endblock %}
