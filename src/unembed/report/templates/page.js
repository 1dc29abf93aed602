"use strict";

// Theme: follows the system until the button is pressed.
{
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.style.colorScheme || (system.matches ? "dark" : "light")) === "dark";
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => {
    root.style.colorScheme = dark() ? "light" : "dark";
    label();
  });
  system.addEventListener("change", label);
  label();
}

// Charts: the reading of a mark, where the pointer is.
{
  const hint = document.getElementById("hint");
  const show = (event) => {
    const mark = event.target instanceof Element && event.target.closest("[data-tip]");
    hint.hidden = !mark;
    if (!mark) return;
    hint.textContent = mark.dataset.tip;
    const left = Math.min(event.pageX + 14, scrollX + document.documentElement.clientWidth - hint.offsetWidth - 6);
    hint.style.left = `${Math.max(scrollX + 6, left)}px`;
    hint.style.top = `${event.pageY - hint.offsetHeight - 12}px`;
  };
  for (const kind of ["pointermove", "pointerdown"]) document.addEventListener(kind, show);
}

// Text that nothing in it can escape from or reorder: characters that are invisible or steer the
// layout become labels, newlines and lone blanks get a mark.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/u;
const MARK = /\p{M}/u;

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function codePoint(character) {
  return `⟨U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
}

// In the text itself lines break; in the details they do not, and a leading blank gets its mark.
function write(into, text, breaksLines) {
  const blank = /^[ \u00a0]+$/.test(text);
  let plain = "";
  let marks = 0;
  const flush = () => { into.append(plain); plain = ""; };
  const add = (className, shown) => { flush(); into.append(element("span", className, shown)); };
  if (MARK.test(Array.from(text)[0] ?? "")) plain = "◌";
  for (const character of text) {
    marks = MARK.test(character) ? marks + 1 : 0;
    if (character === "\n") {
      add("mark", "⏎");
      if (breaksLines) plain = "\n";
    } else if (character === "\t") {
      add("mark", "→");
      plain = "\t";
    } else if (UNSEEN.test(character) || marks > 3) {
      add("label", codePoint(character));
    } else if (blank || (character === " " && !breaksLines && !plain && !into.childNodes.length)) {
      add("mark", "·");
    } else {
      plain += character;
    }
  }
  flush();
  return into;
}

// Text view.
const source = document.getElementById("data");
if (source) {
  const { strings, documents } = JSON.parse(source.textContent);
  const pane = document.getElementById("tokens");
  const details = document.getElementById("details");
  const chooser = document.getElementById("document");
  {% block controls %}
  const threshold = document.getElementById("threshold");
  const tally = document.getElementById("tally");
  const WIDEST = 5000; // thousandths of a logit: from here on a token is not tinted
  {% endblock %}
  let current;
  let tokens = [];
  let reachable = 0;
  let opened = null;

  documents.forEach((one, i) => {
    const option = element("option", "", "");
    option.value = i;
    option.textContent = Array.from(one.name, (c) => (UNSEEN.test(c) ? codePoint(c) : c)).join("");
    chooser.append(option);
  });

  // A token that starts a line may leave its blank at the end of the line before: take its larger part.
  function boxOf(token) {
    return Array.from(token.getClientRects()).reduce((a, b) => (b.width > a.width ? b : a));
  }

  function open(i) {
    if (opened !== null) close();
    opened = i;
    const token = tokens[i];
    fill(i);
    token.classList.add("open");
    token.setAttribute("aria-describedby", "details");
    details.hidden = false;
    const box = boxOf(token);
    const width = document.documentElement.clientWidth;
    if (getComputedStyle(details).position === "fixed") {
      // On a phone the details lie across the bottom, or across the top where they would hide the token.
      details.style.left = details.style.top = "";
      details.classList.toggle("at-top", box.bottom > innerHeight - details.offsetHeight - 16);
      return;
    }
    const below = box.bottom + 8 + details.offsetHeight < innerHeight || box.top < details.offsetHeight + 8;
    const left = Math.max(6, Math.min(box.left - 12, width - details.offsetWidth - 6));
    details.style.left = `${scrollX + left}px`;
    details.style.top = `${scrollY + (below ? box.bottom + 8 : box.top - 8 - details.offsetHeight)}px`;
  }

  function close() {
    if (opened === null) return;
    tokens[opened].classList.remove("open");
    tokens[opened].removeAttribute("aria-describedby");
    details.hidden = true;
    opened = null;
  }

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
  }

  function candidate(text, p, isTarget) {
    const item = element("li", isTarget ? "is-target" : "");
    const bar = element("span", "share");
    bar.style.width = `${(100 * p).toFixed(1)}%`;
    const percent = p > 0 && p < 0.001 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`;
    const track = element("span");
    track.append(bar);
    bar.style.display = "block";
    item.append(write(element("bdi"), text, false), track, element("span", "percent", percent));
    return item;
  }
  {% endblock %}

  function show(number) {
    close();
    current = documents[number];
    const fragment = document.createDocumentFragment();
    {% block lead %}
    fragment.append(write(element("bdi", "lead-token"), current.lead, true));
    {% endblock %}
    tokens = current.text.map((id, i) => {
      {% block look %}
      const margin = current.margin[i];
      const token = element("bdi", margin === null ? "token broken" : "token");
      if (current.right[i] === "0") token.classList.add("wrong-token");
      if (margin !== null) {
        // Square root: the eye should part 0.1 from 0.5 as readily as 2 from 4.
        const narrowness = 1 - Math.sqrt(Math.min(1, margin / WIDEST));
        token.style.setProperty("--narrowness", `${Math.round(100 * narrowness)}%`);
      }
      {% endblock %}
      token.dir = "auto";
      token.tabIndex = -1;
      token.dataset.i = i;
      fragment.append(write(token, strings[id], true));
      return token;
    });
    pane.replaceChildren(fragment);
    pane.scrollTop = 0;
    filter();
  }

  {% block matches %}
  function matches(i, kind, width) {
    if (kind === "wrong") return current.right[i] === "0";
    if (kind === "narrow") return current.margin[i] !== null && current.margin[i] < width;
    return true;
  }
  {% endblock %}

  function filter() {
    const kind = document.querySelector("input[name=filter]:checked").value;
    {% block width %}
    const width = Math.round(1000 * threshold.value);
    document.getElementById("width").textContent = Number(threshold.value).toFixed(1);
    {% endblock %}
    let kept = 0;
    let first = null;
    tokens.forEach((token, i) => {
      const on = matches(i, kind, width);
      token.classList.toggle("off", !on);
      if (on) {
        kept += 1;
        first ??= i;
      }
    });
    tally.textContent = `${kept.toLocaleString("en")} of ${tokens.length.toLocaleString("en")} tokens`;
    reach(first ?? 0);
  }

  // One token at a time is in the tab order; the arrow keys move it.
  function reach(i) {
    if (tokens[reachable]) tokens[reachable].tabIndex = -1;
    reachable = i;
    if (tokens[i]) tokens[i].tabIndex = 0;
  }

  function step(from, direction) {
    for (let i = from + direction; i >= 0 && i < tokens.length; i += direction) {
      if (!tokens[i].classList.contains("off")) return i;
    }
    return null;
  }

  function line(from, direction) {
    const top = (i) => boxOf(tokens[i]).top;
    const left = (i) => boxOf(tokens[i]).left;
    const start = top(from);
    let best = null;
    let level = null;
    for (let i = step(from, direction); i !== null; i = step(i, direction)) {
      const far = Math.abs(top(i) - start) > 6;
      if (!far) continue;
      level ??= top(i);
      if (Math.abs(top(i) - level) > 6) break;
      if (best === null || Math.abs(left(i) - left(from)) < Math.abs(left(best) - left(from))) best = i;
    }
    return best;
  }

  const indexOf = (event) => {
    const token = event.target instanceof Element && event.target.closest(".token");
    return token ? Number(token.dataset.i) : null;
  };

  pane.addEventListener("keydown", (event) => {
    const from = indexOf(event);
    if (from === null) return;
    const moves = {
      ArrowRight: () => step(from, 1),
      ArrowLeft: () => step(from, -1),
      ArrowDown: () => line(from, 1),
      ArrowUp: () => line(from, -1),
      Home: () => step(-1, 1),
      End: () => step(tokens.length, -1),
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const to = moves[event.key]();
    if (to !== null) tokens[to].focus();
  });
  pane.addEventListener("focusin", (event) => {
    const i = indexOf(event);
    if (i === null) return;
    reach(i);
    tokens[i].scrollIntoView({ block: "nearest" });
    open(i);
  });
  pane.addEventListener("focusout", close);
  pane.addEventListener("pointerover", (event) => {
    const i = indexOf(event);
    if (i !== null && event.pointerType === "mouse" && i !== opened) open(i);
  });
  pane.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") close();
  });
  pane.addEventListener("scroll", () => { if (!pane.contains(document.activeElement)) close(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });

  chooser.addEventListener("change", () => show(Number(chooser.value)));
  {% block listen %}
  threshold.addEventListener("input", () => {
    document.querySelector("input[name=filter][value=narrow]").checked = true;
    filter();
  });
  {% endblock %}
  for (const radio of document.querySelectorAll("input[name=filter]")) {
    radio.addEventListener("change", filter);
  }
  document.getElementById("mono").addEventListener("change", (event) => {
    pane.classList.toggle("mono", event.target.checked);
    close();
  });
  show(0);
}
