{% extends "parts/text.js" %}
{% block controls %}
  // What happened at a token, by its number in the data.
  const KINDS = [
    ["kept-right", "unchanged, right"],
    ["kept-wrong", "unchanged, wrong"],
    ["gained", "wrong → right"],
    ["lost", "right → wrong"],
    ["moved", "wrong → wrong"],
  ];
  const kindOf = (i) => Number(current.kind[i]);
{% endblock %}
{% block details %}
  function fill(i) {
    const [look, words] = KINDS[kindOf(i)];
    const head = element("div", "target");
    head.append(
      write(element("bdi"), strings[current.text[i]], false),
      element("span", `verdict is-${look}`, words),
    );
    const table = element("table", "sides");
    const row = (name, value) => {
      const line = element("tr");
      const title = element("th", "", name);
      title.scope = "row";
      line.append(title);
      for (const side of ["before", "after"]) {
        const cell = element("td");
        value(cell, current[side]);
        line.append(cell);
      }
      table.append(line);
    };
    const top = element("tr");
    for (const name of ["", "before", "after"]) {
      const title = element(name ? "th" : "td", "", name);
      if (name) title.scope = "col";
      top.append(title);
    }
    table.append(top);
    for (const [name, column] of [["top-1", "top1"], ["top-2", "top2"]]) {
      row(name, (cell, side) => cell.append(write(element("bdi"), strings[side[column][i]], false)));
    }
    for (const [name, column, unit] of [["margin", "margin", " logits"], ["loss", "nll", " nats"]]) {
      row(name, (cell, side) => cell.append((side[column][i] / 1e3).toFixed(3) + unit));
    }
    details.replaceChildren(head, table);
  }
{% endblock %}
{% block lead %}
    const gaps = new Set(current.gaps);
    if (current.lead !== null) fragment.append(write(element("bdi", "lead-token"), current.lead, true));
{% endblock %}
{% block look %}
      const kind = kindOf(i);
      if (gaps.has(i)) fragment.append(element("span", "mark gap", "⋯"));
      const token = element("bdi", `token is-${KINDS[kind][0]}`);
{% endblock %}
{% block matches %}
  function matches(i, kind) {
    const number = kindOf(i);
    return kind === "all" || (kind === "changed" ? number >= 2 : KINDS[number][0] === kind);
  }
{% endblock %}
