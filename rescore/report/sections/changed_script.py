"""The script of the section of changed winners: it draws the cards of two rows from the embedded data, a few at a
time, filters and sorts them, and keeps the choice in the fragment of the address."""

from __future__ import annotations

SCRIPT = """
const data = JSON.parse(document.getElementById("changed-data").textContent);
const form = document.getElementById("controls"), list = document.getElementById("changes");
const more = document.getElementById("more"), fields = form.elements, BATCH = 15;
const names = ["before", "after", "verdict", "sort", "find"];
const collator = new Intl.Collator(undefined, { numeric: true });
let found = [];

function make(tag, kind, ...children) {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  node.append(...children);
  return node;
}
const words = text => text ? text.split(" ") : [];

// The words of a winner at each word of the reference, and those inserted before each of them and at the end.
function align(reference, [, text, steps]) {
  const own = words(text), at = [], inserted = [[]];
  let next = 0;
  for (const step of steps) {
    if (step === "I") inserted[at.length].push(own[next++]);
    else { at.push(step === "D" ? "" : own[next++]); inserted.push([]); }
  }
  return { at, inserted };
}

function columns(entry) {
  const reference = words(entry.utterance.reference);
  const one = align(reference, entry.before), two = align(reference, entry.after), all = [];
  for (let place = 0; place <= reference.length; place++) {
    const first = one.inserted[place], second = two.inserted[place];
    for (let index = 0; index < Math.max(first.length, second.length); index++)
      all.push(["", first[index] || "", second[index] || ""]);
    if (place < reference.length) all.push([reference[place], one.at[place], two.at[place]]);
  }
  return all;
}

function cell(reference, word, other) {
  if (!word && !reference) return make("span", "", "\\u00a0");
  const right = word === reference, changed = word !== other;
  const kind = right && !changed ? "" : "w " + (right ? "fixed" : changed ? "broken" : "wrong");
  const node = make("span", kind, word || "\\u2013");
  if (!word) node.title = "missing word";
  return node;
}

function signed(value) {
  const size = Math.abs(value);
  return (value < 0 ? "\\u2212" : "+") + (size === Infinity ? "\\u221e" : size.toFixed(2));
}
// A score of null is one of -inf: a hypothesis that has it never wins, whatever the scale.
function shareOf(scale, before, after) {
  if (before === null || after === null) return (before === null ? Infinity : 0) - (after === null ? Infinity : 0) || 0;
  return scale * (after - before);
}

// The lead of the winner after over the winner before, as the sum of scale times difference of each score.
function decision(row, entry) {
  const { name, scales, by_risk } = data.rows[row], line = make("p", "why", "\\u201c" + name + "\\u201d: ");
  if (!scales) line.append("picks by the reference");
  else if (!Object.keys(scales).length) line.append("keeps the order of the list");
  else {
    let total = 0;
    const shares = [];
    data.sources.forEach((source, index) => {
      if (!scales[source]) return;
      const share = shareOf(scales[source], entry.before[4][index], entry.after[4][index]);
      total += share;
      shares.push([source, share]);
    });
    shares.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
    for (const [source, share] of shares)
      line.append(make("span", share < 0 ? "minus" : "plus", source + " " + signed(share)), " ");
    const lead = isNaN(total) ? "neither" : signed(total);
    line.append("= ", make("b", "", lead), by_risk ? ", but chosen by expected errors" : "");
  }
  return line;
}

function card(entry) {
  const { utterance, before, after, verdict } = entry;
  const labels = ["reference", "before", "after"].map(label => make("span", "", label));
  const aligned = make("div", "aligned", make("span", "column labels", ...labels));
  for (const [reference, one, two] of columns(entry)) {
    const top = make("span", "", reference || "\\u00a0");
    aligned.append(" ", make("span", "column", top, cell(reference, one, two), cell(reference, two, one)));
  }
  const header = make("header", "", make("span", "badge", verdict), ` ${before[3]} \\u2192 ${after[3]} errors, `,
    `place ${before[0]} \\u2192 ${after[0]} of the list `, make("code", "", utterance.tag));
  const decisions = [fields.before, fields.after].map(field => decision(field.value, entry));
  return make("article", verdict, header, aligned, ...decisions);
}

const gain = entry => entry.before[3] - entry.after[3];
const orders = {
  list: (a, b) => a.number - b.number,
  gain: (a, b) => gain(b) - gain(a) || orders.list(a, b),
  loss: (a, b) => gain(a) - gain(b) || orders.list(a, b),
  long: (a, b) => b.length - a.length || orders.list(a, b),
  short: (a, b) => a.length - b.length || orders.list(a, b),
  name: (a, b) => collator.compare(a.utterance.tag, b.utterance.tag) || orders.list(a, b),
};

function draw() {
  list.append(...found.slice(list.children.length, list.children.length + BATCH).map(card));
  const left = found.length - list.children.length;
  more.hidden = !left;
  more.textContent = `Show ${Math.min(left, BATCH)} more of ${left}`;
}

function update() {
  const wanted = words(fields.find.value.trim().toLowerCase().replace(/\\s+/g, " ")).join(" ");
  found = data.utterances.map((utterance, number) => {
    const winner = field => utterance.winners[utterance.of_row[field.value]];
    const before = winner(fields.before), after = winner(fields.after);
    const gain = before[3] - after[3], verdict = gain > 0 ? "better" : gain < 0 ? "worse" : "same";
    return { utterance, number, before, after, verdict, length: words(utterance.reference).length };
  }).filter(({ utterance, before, after, verdict }) => before[1] !== after[1]
    && (!fields.verdict.value || fields.verdict.value === verdict)
    && [utterance.reference, before[1], after[1]].some(text => text.toLowerCase().includes(wanted)));
  found.sort(orders[fields.sort.value]);
  list.replaceChildren();
  draw();
  fields.count.value = found.length + " utterance" + (found.length === 1 ? "" : "s");
  document.getElementById("nothing").hidden = found.length > 0;
}

function remember() {
  const state = new URLSearchParams();
  for (const name of names)
    state.set(name, ["before", "after"].includes(name) ? data.rows[fields[name].value].name : fields[name].value);
  history.replaceState(null, "", "#" + state);
}

function recall() {
  const state = new URLSearchParams(location.hash.slice(1));
  for (const name of names) {
    if (!state.has(name)) continue;
    const value = state.get(name), row = data.rows.findIndex(row => row.name === value);
    if (!["before", "after"].includes(name)) fields[name].value = value;
    else if (row >= 0) fields[name].value = row;
  }
  if (!orders[fields.sort.value]) fields.sort.value = "list";
  update();
  if (state.has("after")) form.scrollIntoView();
}

form.addEventListener("input", () => { update(); remember(); });
form.addEventListener("submit", event => event.preventDefault());
more.addEventListener("click", draw);
window.addEventListener("hashchange", recall);
form.hidden = false;
recall();
"""
