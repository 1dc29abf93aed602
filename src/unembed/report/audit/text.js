{% extends "parts/text.js" %}
{% block controls %}
  const threshold = document.getElementById("threshold");
  const WIDEST = 5000; // thousandths of a logit: from here on a token is not tinted
{% endblock %}
{% block details %}
  function fill(i) {
    const right = current.right[i] === "1";
    const target = strings[current.text[i]];
    const head = element("div", "target");
    const verdict = right ? "right" : "wrong";
    head.append(write(element("bdi"), target, false), element("span", `verdict is-${verdict}`, verdict));
    details.replaceChildren(head);
    if (current.margin[i] === null) {
      details.append(element("p", "", "The logits of this position were not finite: it has no statistics."));
      return;
    }
    const list = element("ul", "candidates");
    const pairs = current.candidates[i];
    let found = false;
    for (let c = 0; c < pairs.length; c += 2) {
      // Two tokens can have the same text: a wrong decision's first candidate is never the target.
      const same = !found && pairs[c] === current.text[i] && (right || c > 0);
      found ||= same;
      list.append(candidate(strings[pairs[c]], pairs[c + 1] / 1000, same));
    }
    if (!found && current.nll[i] !== null) {
      list.append(candidate(target, Math.exp(-current.nll[i] / 1000), true));
    }
    details.append(list);
    const figures = element("dl", "figures-of-token");
    const add = (name, value, units, digits, unit = "") => {
      const shown = value === null ? "none" : (value / units).toFixed(digits) + unit;
      figures.append(element("dt", "", name), element("dd", "", shown));
    };
    add("margin", current.margin[i], 1e3, 3, " logits");
    add("scale-free margin", current.relative[i], 1e5, 5);
    add("entropy", current.entropy[i], 1e3, 3, " nats");
    add("loss of the target", current.nll[i], 1e3, 3, " nats");
    add("rank of the target", current.rank[i], 1, 0);
    details.append(figures);
    if (current.pictures && i in current.pictures) {
      details.append(element("p", "remark", "Click, or press Enter: the cells around this decision."));
    }
  }
{% endblock %}
{% block lead %}
    fragment.append(write(element("bdi", "lead-token"), current.lead, true));
{% endblock %}
{% block look %}
      const margin = current.margin[i];
      const token = element("bdi", margin === null ? "token broken" : "token");
      if (current.right[i] === "0") token.classList.add("wrong-token");
      if (margin !== null) {
        // Square root: the eye should part 0.1 from 0.5 as readily as 2 from 4.
        const narrowness = 1 - Math.sqrt(Math.min(1, margin / WIDEST));
        token.style.setProperty("--narrowness", `${Math.round(100 * narrowness)}%`);
      }
      if (current.pictures && i in current.pictures) token.classList.add("pictured");
{% endblock %}
{% block matches %}
  function matches(i, kind) {
    if (kind === "wrong") return current.right[i] === "0";
    if (kind === "narrow") return current.margin[i] !== null && current.margin[i] < 1000 * threshold.value;
    return true;
  }
{% endblock %}
{% block filter %}
    document.getElementById("width").textContent = Number(threshold.value).toFixed(1);
{% endblock %}
{% block listen %}
  // A token with a picture of the cells around its decision opens it.
  const openPicture = (event) => {
    const i = indexOf(event);
    if (i === null || !current.pictures || !(i in current.pictures)) return;
    event.preventDefault();
    close();
    pictures.open(current.pictures[i]);
  };
  pane.addEventListener("click", openPicture);
  pane.addEventListener("keydown", (event) => { if (event.key === "Enter") openPicture(event); });
  threshold.addEventListener("input", () => {
    document.querySelector("input[name=filter][value=narrow]").checked = true;
    filter();
  });
{% endblock %}
