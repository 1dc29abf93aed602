// Text that nothing in it can escape from or reorder: characters that are invisible or steer the
// layout become labels, newlines and lone blanks get a mark.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/u;
const MARK = /\p{M}/u;

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

// Lays details beside a box of the screen, below it where there is room.
function place(details, box) {
  details.hidden = false;
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

// A token with its probability as a bar.
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

// Text view.
const source = document.getElementById("data");
if (source) {
  const { strings, documents } = JSON.parse(source.textContent);
  const pane = document.getElementById("tokens");
  const details = document.getElementById("details");
  const chooser = document.getElementById("document");
  const tally = document.getElementById("tally");
  {% block controls %}{% endblock %}
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
    place(details, boxOf(token));
  }

  function close() {
    if (opened === null) return;
    tokens[opened].classList.remove("open");
    tokens[opened].removeAttribute("aria-describedby");
    details.hidden = true;
    opened = null;
  }

  {% block details %}{% endblock %}

  function show(number) {
    close();
    current = documents[number];
    const fragment = document.createDocumentFragment();
    {% block lead %}{% endblock %}
    tokens = current.text.map((id, i) => {
      {% block look %}{% endblock %}
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

  {% block matches %}{% endblock %}

  function filter() {
    const kind = document.querySelector("input[name=filter]:checked").value;
    {% block filter %}{% endblock %}
    let kept = 0;
    let first = null;
    tokens.forEach((token, i) => {
      const on = matches(i, kind);
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
  {% block listen %}{% endblock %}
  for (const radio of document.querySelectorAll("input[name=filter]")) {
    radio.addEventListener("change", filter);
  }
  document.getElementById("mono").addEventListener("change", (event) => {
    pane.classList.toggle("mono", event.target.checked);
    close();
  });
  show(0);
}
