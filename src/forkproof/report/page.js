/* Draws the page from the JSON beside it; all text goes in as text, never as markup.

   fork:    [at, process, child, number, style, where, waited ms, hazards, endings, hangs, verdict, repaired, note, shared]
   process: [pid, parent, born]     lane (a thread): [process, name, native id]     group: [kind, what, library]
   stack:   [frames, the one that matters, those that are the interpreter's own]    frame: [file, line, function, own]
   Times are microseconds since `start`; -1 stands for none; texts and frames are numbers of rows in their tables. */
"use strict";
(() => {
const D = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const text = n => n < 0 ? "" : D.texts[n];
const [AT, PROCESS, CHILD, NUMBER, STYLE, WHERE, WAITED, HAZARDS, ENDINGS, HANGS, VERDICT, REPAIRED, NOTE, SHARED] = D.forks.length ? D.forks[0].keys() : Array(14).keys();
const SPAN = Math.max(D.end, 1000);

function h(tag, props, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(props || {})) {
    if (key in made && key !== "list") made[key] = value; else made.setAttribute(key, value);
  }
  made.append(...children.flat().filter(child => child !== null && child !== undefined && child !== ""));
  return made;
}
function s(tag, attributes, content) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (content !== undefined) made.textContent = content;
  return made;
}
const count = (n, noun, plural = "s") => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : plural}`;
const clock = (at, digits = 3) => new Date(D.start + at / 1000).toISOString().slice(11, digits ? 20 + digits : 19);
const length = us => us < 1e3 ? `${us.toFixed(0)} µs` : us < 1e4 ? `${(us / 1e3).toFixed(1)} ms` : us < 1e6 ? `${(us / 1e3).toFixed(0)} ms`
  : us < 6e7 ? `${(us / 1e6).toPrecision(2)} s` : us < 3.6e9 ? `${Math.round(us / 6e7)} min` : `${(us / 3.6e9).toFixed(1)} h`;

/* What belongs together. */

const forks = D.forks.map((row, index) => {
  const hangs = row[HANGS].filter(n => D.hangs[n].until === null);
  const groups = new Set([...row[HAZARDS].map(n => D.hazards[n].group), ...row[HANGS].map(n => D.hangs[n].group), ...row[SHARED].map(n => D.shared[n].group)]);
  const outcomes = [hangs.length && "hung", row[SHARED].length && "shares a connection", (row[STYLE] === "bad" || row[STYLE] === "doubt") && "at risk", row[WAITED] > 0 && "waited", row[STYLE] === "good" && !row[WAITED] && "refused", !groups.size && "clear"].filter(Boolean);
  return { index, row, groups, outcomes: new Set(outcomes), hung: hangs.length > 0, weight: hangs.length ? 4 : row[SHARED].length ? 3.5 : { bad: 3, lost: 3, doubt: 2, good: 1 }[row[STYLE]] || 0 };
});
const hangFork = new Map();
forks.forEach(fork => fork.row[HANGS].forEach(n => hangFork.set(n, fork.index)));

/* Filters. */

const wanted = { outcomes: new Set(), kinds: new Set(), library: "", process: "", find: "" };
let shown = forks, shownSet = null, chosen = null, group = null;

const haystacks = new Map();
function haystack(fork) {
  if (!haystacks.has(fork.index)) {
    const words = new Set();
    const stack = n => { if (n >= 0) D.stacks[n][0].forEach(f => words.add(D.frames[f][0]).add(D.frames[f][2])); };
    for (const n of fork.row[HAZARDS]) { const z = D.hazards[n]; words.add(z.what).add(z.thread); stack(z.stack); }
    for (const n of fork.row[HANGS]) { const z = D.hangs[n]; words.add(z.what).add(z.thread); stack(z.stack); }
    for (const n of fork.row[SHARED]) { const z = D.shared[n]; words.add(z.what).add(z.thread); stack(z.stack); }
    if (fork.row[WHERE] >= 0) words.add(D.frames[fork.row[WHERE]][0]).add(D.frames[fork.row[WHERE]][2]);
    haystacks.set(fork.index, [...words].map(text).join("\n").toLowerCase());
  }
  return haystacks.get(fork.index);
}
function groupFits(n) {
  const [kind, , of] = D.groups[n].map(text);
  return (!wanted.kinds.size || wanted.kinds.has(kind)) && (!wanted.library || wanted.library === of);
}
function fits(fork) {
  if (wanted.outcomes.size && ![...wanted.outcomes].some(outcome => fork.outcomes.has(outcome))) return false;
  if ((wanted.kinds.size || wanted.library) && ![...fork.groups].some(groupFits)) return false;
  if (wanted.process) {
    const pids = [fork.row[PROCESS], fork.row[CHILD]].filter(p => p !== null).map(p => String(D.processes[p][0]));
    if (!pids.includes(wanted.process)) return false;
  }
  return !wanted.find || haystack(fork).includes(wanted.find);
}
function filter() {
  const any = wanted.outcomes.size || wanted.kinds.size || wanted.library || wanted.process || wanted.find;
  shown = any ? forks.filter(fits) : forks;
  shownSet = any ? new Set(shown.map(fork => fork.index)) : null;
  $("reset").hidden = !any;
  arrange();
  drawGroups();
  if (!chosen || !isShown(chosen.index) || (group !== null && !groupsShown.some(one => one.n === group))) chooseWorst();
  else drawDetail();
  draw();
}
const isShown = index => !shownSet || shownSet.has(index);

function chips(id, of, into) {
  const names = [...of].filter(([, n]) => n);
  if (names.length < 2) return;
  for (const [name, n] of names) {
    const chip = h("button", { type: "button", "aria-pressed": "false" }, name, " ", h("small", {}, n.toLocaleString("en")));
    chip.onclick = () => {
      if (!into.delete(name)) into.add(name);
      chip.setAttribute("aria-pressed", String(into.has(name)));
      filter();
    };
    $(id).append(chip);
  }
}
function tally(of) {
  const counts = new Map();
  for (const fork of forks) for (const name of new Set(of(fork))) counts.set(name, (counts.get(name) || 0) + 1);
  return counts;
}
function setUpFilters() {
  const outcomes = tally(fork => fork.outcomes);
  chips("outcomes", ["hung", "shares a connection", "at risk", "waited", "refused", "clear"].map(name => [name, outcomes.get(name) || 0]), wanted.outcomes);
  chips("kinds", [...tally(fork => [...fork.groups].map(n => text(D.groups[n][0])))].sort((a, b) => b[1] - a[1]), wanted.kinds);
  const libraries = tally(fork => [...fork.groups].map(n => text(D.groups[n][2])));
  $("library").append(h("option", { value: "" }, "any"), ...[...libraries].sort().map(([name, n]) => h("option", { value: name }, `${name} (${n.toLocaleString("en")})`)));
  $("library").parentNode.hidden = libraries.size < 2;
  const pids = new Map();
  for (const fork of forks) for (const p of [fork.row[PROCESS], fork.weight > 3 ? fork.row[CHILD] : null]) if (p !== null) pids.set(D.processes[p][0], (pids.get(D.processes[p][0]) || 0) + 1);
  $("pids").append(...[...pids].sort((a, b) => b[1] - a[1]).slice(0, 200).map(([pid]) => h("option", { value: String(pid) })));
  $("process").parentNode.hidden = D.processes.length < 3;
  $("find").parentNode.hidden = forks.length < 2;
  const form = document.querySelector(".filters");
  form.hidden = forks.length < 2;
  $("library").onchange = () => { wanted.library = $("library").value; filter(); };
  $("process").oninput = () => { wanted.process = $("process").value.trim(); filter(); };
  $("find").oninput = () => { wanted.find = $("find").value.trim().toLowerCase(); filter(); };
  form.onsubmit = event => event.preventDefault();
  form.onreset = () => {
    wanted.outcomes.clear(); wanted.kinds.clear(); wanted.library = wanted.process = wanted.find = "";
    form.querySelectorAll("[aria-pressed]").forEach(chip => chip.setAttribute("aria-pressed", "false"));
    setTimeout(filter);
  };
}

/* The list of what recurs. */

let groupsShown = [];
const inGroup = n => n === null ? shown : shown.filter(fork => fork.groups.has(n));
const worst = among => among.reduce((best, fork) => !best || fork.weight > best.weight ? fork : best, null);

function drawGroups() {
  const found = new Map();
  for (const fork of shown) for (const n of fork.groups) {
    if (!groupFits(n)) continue;
    let one = found.get(n);
    if (!one) found.set(n, one = { n, forks: 0, hung: 0, shared: 0, risk: 0, cleared: 0, times: [] });
    one.forks++;
    one.times.push(fork);
    const hung = fork.row[HANGS].some(k => D.hangs[k].group === n && D.hangs[k].until === null);
    const mine = fork.row[HAZARDS].map(k => D.hazards[k]).filter(hazard => hazard.group === n);
    one.hung += hung;
    one.shared += fork.row[SHARED].some(k => D.shared[k].group === n);
    if (mine.some(hazard => !hazard.cleared && hazard.counts) && fork.weight > 1) one.risk++;
    else if (mine.length && mine.every(hazard => hazard.cleared)) one.cleared++;
  }
  groupsShown = [...found.values()].sort((a, b) => b.hung - a.hung || b.shared - a.shared || b.risk - a.risk || b.forks - a.forks || a.n - b.n);
  const limit = 200;
  $("groups").replaceChildren(...groupsShown.slice(0, limit).map(one => {
    const [kind, what, of] = D.groups[one.n].map(text);
    const button = h("button", { type: "button", className: "group" },
      h("span", { className: "kind" }, h("span", {}, kind), h("span", {}, of)),
      h("span", { className: "what" }, what),
      h("span", { className: "counts" },
        h("span", {}, count(one.forks, "fork")),
        one.hung ? h("span", { className: "bad" }, `${one.hung.toLocaleString("en")} hung`) : null,
        one.shared ? h("span", { className: "bad" }, `${one.shared.toLocaleString("en")} used by both`) : null,
        one.risk ? h("span", { className: "bad" }, `${one.risk.toLocaleString("en")} at risk`) : null,
        one.cleared ? h("span", { className: "good" }, `${one.cleared.toLocaleString("en")} made safe`) : null,
        one.forks > 2 ? spark(one) : null));
    button.onclick = () => { group = one.n; choose(worst(inGroup(one.n)), true); mark(); };
    button.dataset.group = one.n;
    return h("li", {}, button);
  }), ...groupsShown.length > limit ? [h("li", { className: "quiet" }, `and ${count(groupsShown.length - limit, "more")}; filter to see them`)] : []);
  const clear = shown.filter(fork => !fork.groups.size);
  if (clear.length) {
    const button = h("button", { type: "button", className: "group" },
      h("span", { className: "what dim" }, "Nothing"), h("span", { className: "counts" }, h("span", {}, count(clear.length, "fork"))));
    button.onclick = () => { group = null; choose(clear[0], true); mark(); };
    $("groups").append(h("li", {}, button));
  }
  $("none").hidden = shown.length > 0;
  mark();
}
function mark() {
  for (const button of $("groups").querySelectorAll(".group")) button.setAttribute("aria-current", String(group !== null && button.dataset.group === String(group)));
}
function spark(one) {
  const bins = Array.from({ length: 24 }, () => [0, 0]);
  for (const fork of one.times) {
    const bin = bins[Math.min(Math.floor(fork.row[AT] / SPAN * 24), 23)];
    bin[0]++;
    bin[1] ||= fork.weight > 1;
  }
  const most = Math.max(...bins.map(bin => bin[0]));
  const drawn = s("svg", { class: "spark", viewBox: "0 0 72 14", "aria-hidden": "true" });
  bins.forEach(([n, bad], i) => { if (n) { const tall = Math.max(n / most * 14, 2); drawn.append(s("rect", { x: i * 3, y: 14 - tall, width: 2, height: tall, class: bad ? "bad" : "" })); } });
  return drawn;
}

/* The chosen fork. */

function choose(fork, reveal) {
  chosen = fork;
  if (fork && group !== null && !fork.groups.has(group)) group = null;
  if (fork && group === null) group = [...fork.groups].filter(groupFits)[0] ?? null;
  drawDetail();
  if (fork && reveal) bringIntoView(fork);
  draw();
  try { history.replaceState(null, "", fork ? `#fork-${fork.index}` : "#"); } catch { /* a page without an address */ }
}
function chooseWorst() {
  group = groupsShown.length ? groupsShown[0].n : null;
  choose(worst(inGroup(group)), false);
  mark();
}
function step(by) {
  const among = inGroup(group);
  const at = among.indexOf(chosen);
  if (among.length) choose(among[Math.min(Math.max((at < 0 ? 0 : at) + by, 0), among.length - 1)], true);
}
const pid = p => p === null ? "?" : D.processes[p][0];

function drawDetail() {
  const among = inGroup(group);
  $("detail").replaceChildren(...chosen ? detail(chosen, group, among) : [h("p", { className: "quiet" }, forks.length ? "No fork matches." : "No fork was recorded.")]);
}
function detail(fork, about, among) {
  const row = fork.row, hangs = row[HANGS].map(n => D.hangs[n]), hazards = row[HAZARDS].map((n, i) => [D.hazards[n], row[ENDINGS][i]]);
  const heading = row[NUMBER] ? `Fork ${row[NUMBER]}: ` : row[STYLE] === "lost" ? "A fork: " : "Fork refused: ";
  const at = among ? among.indexOf(fork) : -1;
  const parts = [h("div", { className: "top" },
    h("h2", {}, `${heading}${pid(row[PROCESS])}${row[CHILD] !== null ? ` → ${pid(row[CHILD])}` : ""}`),
    h("span", { className: `pill ${row[STYLE]}` }, text(row[VERDICT])),
    hangs.length ? h("span", { className: `pill ${fork.hung ? "bad" : "good"}` }, fork.hung ? "its child hangs" : "its child went on after all") : null,
    row[SHARED].length ? h("span", { className: "pill bad" }, "its child uses a connection that both have") : null,
    among && among.length > 1 ? h("span", { className: "pager" },
      h("button", { type: "button", onclick: () => step(-1), disabled: at <= 0, ariaLabel: "Previous fork" }, "‹"),
      at < 0 ? `${count(among.length, "fork")}` : `${(at + 1).toLocaleString("en")} of ${among.length.toLocaleString("en")}`,
      h("button", { type: "button", onclick: () => step(1), disabled: at >= among.length - 1, ariaLabel: "Next fork" }, "›")) : null),
    h("p", { className: "facts" }, `${clock(row[AT])} UTC`, row[WHERE] >= 0 ? ` · ${place(row[WHERE])}` : "", row[WAITED] && row[STYLE] !== "good" ? ` · waited ${length(row[WAITED] * 1000)}` : "")];

  const mine = hazards.filter(([hazard]) => about === null || hazard.group === about);
  const waiter = hangs.find(hang => about === null || hang.group === about) || (about === null ? hangs[0] : undefined);
  const weight = ([hazard]) => (hazard.cleared ? 4 : 0) + (hazard.certain ? 0 : 2) + (text(hazard.had).includes("acquiring") ? 1 : 0);
  mine.sort((a, b) => weight(a) - weight(b));
  const uses = row[SHARED].map(n => D.shared[n]);
  const use = waiter ? undefined : uses.find(one => about === null || one.group === about);
  let main = mine[0] || null;
  if (!main && waiter && waiter.hazard >= 0) main = [D.hazards[waiter.hazard], -1];
  const sides = h("div", { className: "sides" });
  if (main) sides.append(holder(main, row));
  if (waiter) sides.append(waiting(waiter));
  if (!waiter && (main && !use || use && !main) && row[WHERE] >= 0) sides.append(h("div", { className: "side" }, h("h3", {}, row[NUMBER] ? "The thread that forked" : "The thread that would have forked"),
    h("p", { className: "lead" }, use ? `made process ${pid(use.p)}, with this connection in it` : row[CHILD] !== null ? `made process ${pid(row[CHILD])}, in which no thread was seen to hang` : row[NUMBER] ? "made a child, in which no thread was seen to hang" : "got an exception instead"), stack([[row[WHERE]], 0, []])));
  if (use) sides.append(using(use));
  if (sides.childNodes.length) parts.push(sides);
  else if (row[WHERE] >= 0) parts.push(stack([[row[WHERE]], 0, []]));

  const told = new Set();
  const help = (waiter && waiter.advice >= 0) ? waiter.advice : use ? use.advice : main ? main[0].advice : -1;
  if (help >= 0) { told.add(help); parts.push(h("p", { className: "advice" }, h("b", {}, "What to do:"), " ", text(help))); }
  if (waiter && waiter.note >= 0) parts.push(h("p", { className: "aside" }, text(waiter.note)));
  if (row[REPAIRED].length) parts.push(h("p", { className: "aside" }, "Reset in the child: ", row[REPAIRED].map(text).join("; ")));
  if (row[NOTE] >= 0) parts.push(h("p", { className: "aside" }, text(row[NOTE])));

  const rest = [...mine.slice(1), ...hazards.filter(one => !mine.includes(one))];
  rest.slice(0, 30).forEach(([hazard, how]) => {
    const box = h("details", {}, h("summary", {}, ...lead(hazard)));
    box.ontoggle = () => { if (box.open && box.childNodes.length === 1) box.append(holder([hazard, how], row), hazard.advice >= 0 && !told.has(hazard.advice) ? h("p", { className: "aside" }, "What to do: ", text(hazard.advice)) : ""); };
    parts.push(box);
  });
  if (rest.length > 30) parts.push(h("p", { className: "aside" }, `and ${rest.length - 30} more`));
  hangs.filter(hang => hang !== waiter).slice(0, 30).forEach(hang => parts.push(h("details", {}, h("summary", {}, text(hang.thread), h("span", { className: "bad" }, " waits too, for "), text(hang.what)), waiting(hang))));
  uses.filter(one => one !== use).slice(0, 30).forEach(one => parts.push(h("details", {}, h("summary", {}, text(one.thread), h("span", { className: "bad" }, ` ${text(one.did)} `), text(one.what)), using(one))));
  return parts;
}
function lead(hazard) {
  const had = h("span", { className: hazard.cleared || !hazard.counts ? "dim" : hazard.certain ? "bad" : "doubt" }, text(hazard.had));
  return hazard.thread >= 0 ? [h("b", {}, text(hazard.thread)), " ", had, " ", h("b", {}, text(hazard.what))] : [h("b", {}, text(hazard.what)), " ", had];
}
function holder([hazard, how], row) {
  return h("div", { className: `side holder ${hazard.cleared ? "safe" : ""}` },
    h("h3", {}, `At the fork, in process ${pid(row[PROCESS])}`),
    h("p", { className: "lead" }, ...lead(hazard)),
    how >= 0 ? h("p", { className: "because" }, text(how)) : null,
    hazard.stack >= 0 ? stack(D.stacks[hazard.stack]) : h("p", { className: "quiet" }, "No Python code of it is known."));
}
function waiting(hang) {
  const over = hang.until !== null;
  return h("div", { className: "side waiter" },
    h("h3", {}, `In the child, process ${pid(hang.p)}`),
    h("p", { className: "lead" }, h("b", {}, text(hang.thread)), " ", h("span", { className: over ? "good" : "bad" }, over ? `waited ${length(hang.until - hang.since)} for` : "waits for"), " ", h("b", {}, text(hang.what))),
    h("p", { className: "because" }, over ? "and went on after all" : `${text(hang.verdict)}${hang.why >= 0 ? `: ${text(hang.why)}` : ""}; since ${clock(hang.since)}, for ${length(hang.seconds * 1e6)} when it was told`),
    hang.stack >= 0 ? stack(D.stacks[hang.stack]) : h("p", { className: "quiet" }, "Where it stands is not known."));
}
function using(use) {
  return h("div", { className: "side user" },
    h("h3", {}, `In the child, process ${pid(use.p)}`),
    h("p", { className: "lead" }, h("b", {}, text(use.thread)), " ", h("span", { className: "bad" }, text(use.did)), " ", h("b", {}, text(use.what))),
    h("p", { className: "because" }, `${text(use.verdict)}: ${text(use.why)}; at ${clock(use.at)}`),
    use.stack >= 0 ? stack(D.stacks[use.stack]) : h("p", { className: "quiet" }, "Where it stood is not known."));
}
function place(n) {
  const [file, line, name] = D.frames[n];
  return `${text(file)}${line === null ? "" : `:${line}`} in ${text(name)}`;
}
function stack([frames, matters, machinery], all) {
  const list = h("ol", { className: "stack" });
  const hidden = new Set(machinery);
  const visible = frames.map((_, i) => i).filter(i => !hidden.has(i));
  const kept = visible.length > 9 ? new Set([...visible.slice(0, 6), ...visible.slice(-2), matters]) : new Set(visible);
  frames.forEach((n, i) => { if (all || kept.has(i)) list.append(frame(n, i === matters)); });
  const left = frames.length - kept.size;
  if (left && !all) {
    const more = h("button", { type: "button", className: "more" }, `${count(left, "more frame")}`);
    more.onclick = () => list.replaceWith(stack([frames, matters, machinery], true));
    list.append(h("li", {}, more));
  }
  return list;
}
function frame(n, matters) {
  const [file, line, name, own] = D.frames[n];
  const item = h("li", { className: `${own ? "own" : "library"}${matters ? " matters" : ""}` },
    h("span", { className: "place" }, h("b", {}, text(name)), ` ${text(file)}${line === null ? "" : `:${line}`}`));
  const source = D.sources[n];
  if (source) {
    let [first, lines] = source;
    if (!matters) { lines = [lines[line - first]]; first = line; }
    while (lines.length && first < line && !lines[0].trim()) { lines = lines.slice(1); first++; }
    while (first + lines.length - 1 > line && !lines.at(-1).trim()) lines = lines.slice(0, -1);
    const margin = Math.min(...lines.filter(one => one.trim()).map(one => one.match(/^ */)[0].length));
    item.append(h("code", { className: "source" }, lines.map((one, i) => h("span", { className: first + i === line ? "line" : "" }, h("i", {}, String(first + i)), one.slice(isFinite(margin) ? margin : 0) || " "))));
  }
  return item;
}

/* The timeline. */

let view = [0, SPAN], rows = [], printing = false;
const ROW = 26, HEAD = 24;
const spans = new Map(); /* lane or process -> what is drawn there: [from, to, style, fork, hang] */

function arrange() {
  spans.clear();
  const put = (key, span) => { if (!spans.has(key)) spans.set(key, []); spans.get(key).push(span); };
  const told = new Set(), byProcess = new Map(), parents = new Set();
  for (const fork of shown) {
    const row = fork.row, from = row[AT] - row[WAITED] * 1000;
    if (!byProcess.has(row[PROCESS])) byProcess.set(row[PROCESS], []);
    byProcess.get(row[PROCESS]).push(fork);
    told.add(row[PROCESS]);
    if (row[WAITED] > 0) put(`p${row[PROCESS]}`, [from, row[AT], "wait", fork.index, -1]);
    for (const n of row[HAZARDS]) {
      const hazard = D.hazards[n];
      if (hazard.lane < 0 || !groupFits(hazard.group)) continue;
      put(`l${hazard.lane}`, [from, row[AT], hazard.cleared ? "cleared" : !hazard.counts ? "none" : hazard.certain ? "bad" : "doubt", fork.index, -1]);
    }
    for (const n of row[HANGS]) {
      const hang = D.hangs[n];
      told.add(hang.p);
      put(`l${hang.lane}`, [hang.since, hang.until === null ? D.end + SPAN : hang.until, hang.until === null ? "hang" : "over", fork.index, n]);
    }
    for (const n of row[SHARED]) {
      const use = D.shared[n];
      told.add(use.p);
      put(`l${use.lane}`, [use.at, use.at, "use", fork.index, -1, n]);
    }
  }
  for (const p of told) for (let up = D.processes[p][1]; up !== null && !told.has(up); up = D.processes[up][1]) parents.add(up);
  parents.forEach(p => told.add(p));
  const lanesOf = new Map();
  D.lanes.forEach((lane, n) => { if (spans.has(`l${n}`)) { if (!lanesOf.has(lane[0])) lanesOf.set(lane[0], []); lanesOf.get(lane[0]).push(n); } });
  const children = new Map();
  const roots = [];
  for (const p of told) {
    const parent = D.processes[p][1];
    if (parent !== null && told.has(parent)) { if (!children.has(parent)) children.set(parent, []); children.get(parent).push(p); } else roots.push(p);
  }
  rows = [];
  const byBirth = (a, b) => D.processes[a][2] - D.processes[b][2];
  const pending = roots.sort(byBirth).map(p => [p, 0]).reverse();
  while (pending.length) {
    const [p, depth] = pending.pop();
    const lanes = lanesOf.get(p) || [], forked = byProcess.get(p) || [];
    const alone = lanes.length === 1 && !forked.length;
    rows.push({ process: p, depth, forks: forked, lane: alone ? lanes[0] : null, head: true });
    if (!alone) for (const n of lanes) rows.push({ process: p, depth, forks: [], lane: n, head: false });
    (children.get(p) || []).sort(byBirth).reverse().forEach(c => pending.push([c, Math.min(depth + 1, 4)]));
  }
  rowOf = new Map();
  rows.forEach((row, i) => { if (row.head) rowOf.set(row.process, i); });
}
let rowOf = new Map();

const width = () => Math.max($("timeline").clientWidth, 280);
const gutter = () => width() < 560 ? 104 : 176;
const EDGE = 16; /* room for what stands at the first and the last moment */
const plot = () => width() - gutter() - 2 * EDGE;
const x = at => gutter() + EDGE + (at - view[0]) / (view[1] - view[0]) * plot();

let asked = false;
function draw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; drawNow(); });
}
function drawNow() {
  const box = $("timeline"), svg = $("lanes"), W = width(), G = gutter();
  const full = HEAD + rows.length * ROW + 6;
  const H = printing ? Math.min(full, 1600) : Math.min(full, 440, Math.max(box.clientHeight, 120) || 440);
  $("scroll").style.height = `${printing ? H : full}px`;
  const top = printing ? 0 : box.scrollTop;
  const tall = printing ? H : Math.min(full, parseFloat(getComputedStyle(box).maxHeight) || 440);
  svg.setAttribute("height", tall);
  svg.setAttribute("viewBox", `0 0 ${W} ${tall}`);
  const from = Math.max(Math.floor((top - HEAD) / ROW), 0), to = Math.min(Math.ceil((top + tall - HEAD) / ROW), rows.length);
  const y = i => HEAD + i * ROW + ROW / 2 - top;
  const layer = { back: [], arrows: [], spans: [], forks: [], names: [] };
  const right = W - EDGE;

  for (let i = from; i < to; i++) {
    const row = rows[i], [number, , born] = D.processes[row.process];
    const isChosen = chosen && (chosen.row[PROCESS] === row.process && row.head || chosen.row[CHILD] === row.process && row.head);
    if (isChosen) layer.back.push(s("rect", { class: "chosen-row", x: 0, y: y(i) - ROW / 2, width: W, height: ROW, rx: 4 }));
    const begin = row.head ? Math.max(x(born), G) : G;
    if (row.head && begin < right) layer.back.push(s("line", { class: "life", x1: begin, x2: right, y1: y(i), y2: y(i) }));
    const indent = 4 + row.depth * (W < 560 ? 5 : 12) + (row.head ? 0 : W < 560 ? 8 : 16);
    const room = G - indent - 6;
    const name = row.lane === null ? (row.forks.length > 1 && W >= 560 ? count(row.forks.length, "fork") : "") : text(D.lanes[row.lane][1]);
    if (row.head) {
      const label = s("text", { class: "pid", x: indent, y: y(i) + 4 }, number);
      layer.names.push(label);
      const after = String(number).length * 7.4 + 8;
      if (name) layer.names.push(s("text", { class: "name", x: indent + after, y: y(i) + 4 }, fitted(name, room - after)));
    } else layer.names.push(s("text", { class: "name", x: indent, y: y(i) + 4, "data-tip": name }, fitted(name, room)));

    if (row.head && spans.has(`p${row.process}`)) drawSpans(layer, spans.get(`p${row.process}`), y(i), 8, right);
    if (row.lane !== null) drawSpans(layer, spans.get(`l${row.lane}`), y(i), 12, right);
    drawForks(layer, row, y(i), right);
  }
  drawArrows(layer, y, from, to, tall);
  const clip = s("clipPath", { id: "plot" });
  clip.append(s("rect", { x: G, y: HEAD - 2, width: W - G, height: tall }));
  const drawn = s("g", { "clip-path": "url(#plot)" });
  drawn.append(...layer.arrows, ...layer.spans, ...layer.forks);
  const lower = s("g", {});
  lower.append(...layer.back);
  svg.replaceChildren(clip, lower, ...grid(G, right, tall), drawn, ...layer.names);
  $("range").textContent = forks.length ? `${length(view[1] - view[0])}${view[1] - view[0] < SPAN ? ` of ${length(SPAN)}, from ${clock(view[0])}` : ""}` : "";
  $("out").disabled = $("all").disabled = view[0] <= 0 && view[1] >= SPAN;
  drawOverview();
}
function fitted(name, room) {
  const most = Math.floor(room / 6.3);
  return name.length <= most ? name : most < 2 ? "" : `${name.slice(0, most - 1)}…`;
}
function grid(G, right, tall) {
  const out = [s("rect", { class: "head", x: 0, y: 0, width: right + EDGE, height: HEAD - 2 })];
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500].flatMap(n => [n, n * 1e3]).concat([1e6, 2e6, 5e6, 1e7, 15e6, 3e7, 6e7, 12e7, 3e8, 6e8, 9e8, 18e8, 36e8, 72e8, 108e8, 216e8, 432e8, 864e8]).sort((a, b) => a - b);
  const want = (view[1] - view[0]) / Math.max((right - G) / 110, 3);
  const unit = steps.find(n => n >= want) || 864e8;
  const offset = (D.start % 86400000) * 1000;
  for (let at = Math.ceil((view[0] + offset) / unit) * unit - offset; at <= view[1]; at += unit) {
    const X = x(at);
    if (X > right + 2) break;
    out.push(s("line", { class: "grid", x1: X, x2: X, y1: HEAD - 4, y2: tall }));
    out.push(s("text", { class: "tick", x: X, y: 12, "text-anchor": X > right - 28 ? "end" : "middle" }, unit < 1e3 ? `+${length(at)}` : clock(at, unit < 1e6 ? 3 : 0)));
  }
  return out;
}
function drawSpans(layer, list, y, tall, right) {
  let last = {};
  for (const [from, to, style, fork, hang, used] of list) {
    if (to < view[0] || from > view[1]) continue;
    if (style === "use") {
      const X = x(from), t = tall / 2 - 1;
      layer.spans.push(s("path", { class: "use", d: `M${X - 3} ${y - t}l6 ${2 * t}M${X + 3} ${y - t}l-6 ${2 * t}` }), s("rect", { x: X - 8, y: y - 10, width: 16, height: 20, opacity: 0, "data-fork": fork, "data-use": used }));
      continue;
    }
    let a = Math.max(x(from), gutter() - 8), b = Math.min(x(to), right + EDGE + 8);
    if (b - a < 6 && hang < 0) a = b - 6;
    if (last[style] !== undefined && hang < 0 && b - last[style] < 1.5) continue; /* no wider than a hair apart */
    last[style] = b;
    const focus = chosen && chosen.index === fork;
    const bar = (p, q, more) => layer.spans.push(s("rect", { class: `span ${style} ${more}`, x: p, y: y - tall / 2, width: Math.max(q - p, 2), height: tall, rx: 2.5, "data-fork": fork, "data-hang": hang, opacity: chosen && !focus && hang < 0 ? .55 : 1 }));
    const seen = style === "hang" ? x(from + D.hangs[hang].seconds * 1e6) : b;
    if (seen < b) bar(Math.max(seen, a), b, "after"); /* that it had not ended by then is all that is known */
    if (seen > a) bar(a, Math.min(seen, b), "");
    if (hang >= 0 && b - a > 90) {
      const it = D.hangs[hang];
      const left = seen - a > 150 || seen <= a ? a : seen; /* not across the border between the two */
      if (b - left > 70) layer.spans.push(s("text", { class: "hang-text", x: left + 7, y: y + 4 }, fitted(it.until === null ? `waits for ${text(it.what)}` : `waited for ${text(it.what)}`, b - left - 12)));
    }
  }
}
const STYLES = ["dim", "good", "lost", "doubt", "bad"];
function drawForks(layer, row, y, right) {
  const spots = new Map();
  for (const fork of row.forks) {
    const at = fork.row[AT];
    if (at < view[0] || at > view[1]) continue;
    const spot = Math.round(x(at) / 5), known = spots.get(spot), rank = STYLES.indexOf(fork.row[STYLE]);
    if (!known) spots.set(spot, { fork, rank, n: 1 });
    else { known.n++; if (rank > known.rank || fork === chosen) { known.rank = Math.max(rank, known.rank); known.fork = known.fork === chosen ? chosen : fork; } }
  }
  for (const { fork, rank, n } of spots.values()) {
    const X = x(fork.row[AT]), style = STYLES[rank], big = n > 1 ? Math.min(1 + Math.log10(n) / 2.5, 1.7) : 1;
    const shape = style === "bad" || style === "doubt" || style === "lost"
      ? s("path", { d: `M${X} ${y - 6 * big}l${6 * big} ${6 * big}l${-6 * big} ${6 * big}l${-6 * big} ${-6 * big}z` })
      : s("circle", { cx: X, cy: y, r: (style === "good" ? 4.5 : 3.2) * big });
    shape.setAttribute("class", `fork ${style}`);
    shape.dataset.fork = fork.index;
    if (n > 1) shape.dataset.n = n;
    layer.forks.push(shape);
    if (fork === chosen) layer.forks.push(s("circle", { class: "ring", cx: X, cy: y, r: 10 * big }));
  }
}
function drawArrows(layer, y, from, to, tall) {
  const ends = new Set();
  let heads = 0;
  for (const fork of shown) {
    const row = fork.row;
    if (row[AT] < view[0] || row[AT] > view[1] || row[STYLE] === "lost" && row[PROCESS] === row[CHILD]) continue;
    const a = rowOf.get(row[PROCESS]), b = row[CHILD] === null ? undefined : rowOf.get(row[CHILD]);
    const X = Math.round(x(row[AT])), isChosen = fork === chosen;
    const style = fork.weight > 3 || row[STYLE] === "bad" && b !== undefined ? "bad" : "";
    if (b === undefined || b === a) {
      if (a < from || a >= to || ends.has(`${a} ${X >> 2}`) && !isChosen) continue;
      ends.add(`${a} ${X >> 2}`);
      layer.arrows.push(s("path", { class: `arrow ${isChosen ? "chosen" : ""}`, d: `M${X} ${y(a)}v11` }), s("path", { class: "tiphead", d: `M${X - 2.6} ${y(a) + 9.5}h5.2l-2.6 4z` }));
      continue;
    }
    if (Math.max(a, b) < from || Math.min(a, b) >= to || heads++ > 600 && !isChosen) continue;
    const birth = x(Math.max(D.processes[row[CHILD]][2], row[AT])), down = b > a ? 1 : -1;
    const start = Math.max(Math.min(y(a), tall + 20), -20), end = Math.max(Math.min(y(b), tall + 20), -20);
    layer.arrows.push(s("path", { class: `arrow ${style} ${isChosen ? "chosen" : ""}`, d: `M${X} ${start}V${end - down * 4}Q${X} ${end} ${X + 4} ${end}H${Math.max(birth, X + 7)}`, "data-fork": fork.index }),
      s("path", { class: `tiphead ${style}`, d: `M${Math.max(birth, X + 7)} ${end - 3.2}v6.4l5-3.2z` }));
  }
}
function drawOverview() {
  const svg = $("overview"), W = width(), G = gutter(), H = 34;
  svg.style.display = forks.length < 2 ? "none" : "";
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const inner = plot(), bins = new Map();
  for (const fork of shown) {
    const spot = Math.floor(fork.row[AT] / SPAN * inner / 4);
    const bin = bins.get(spot) || [0, 0];
    bin[0]++;
    bin[1] += fork.weight > 1;
    bins.set(spot, bin);
  }
  const most = Math.max(1, ...[...bins.values()].map(bin => bin[0]));
  const out = [];
  for (const [spot, [n, bad]] of bins) {
    const tall = Math.max(n / most * (H - 8), 2), red = bad ? Math.max(bad / most * (H - 8), 2) : 0;
    out.push(s("rect", { class: "fork dim", x: G + EDGE + spot * 4, y: H - 3 - tall, width: 4, height: tall }));
    if (red) out.push(s("rect", { class: "fork bad", x: G + EDGE + spot * 4, y: H - 3 - red, width: 4, height: red }));
  }
  const place = at => G + EDGE + at / SPAN * inner;
  if (view[0] > 0 || view[1] < SPAN) {
    const a = place(view[0]), b = Math.max(place(view[1]), a + 2);
    out.push(s("rect", { class: "brush", x: a, y: 0, width: b - a, height: H }), ...[a, b].map(X => s("line", { class: "brush-edge", x1: X, x2: X, y1: 0, y2: H })));
  }
  svg.replaceChildren(...out);
}
function show(from, to) {
  const wide = Math.min(Math.max(to - from, 200), SPAN);
  from = Math.min(Math.max(from, 0), SPAN - wide);
  view = [from, from + wide];
  draw();
}
function zoom(by, around = chosen && chosen.row[AT] >= view[0] && chosen.row[AT] <= view[1] ? chosen.row[AT] : (view[0] + view[1]) / 2) {
  const wide = (view[1] - view[0]) * by;
  show(around - (around - view[0]) * by, around - (around - view[0]) * by + wide);
}
function bringIntoView(fork) {
  const at = fork.row[AT];
  if (at < view[0] || at > view[1]) show(at - (view[1] - view[0]) / 2, at + (view[1] - view[0]) / 2);
  const box = $("timeline"), row = rowOf.get(fork.weight > 3 ? fork.row[CHILD] : fork.row[PROCESS]);
  if (row === undefined) return;
  const top = row * ROW, room = box.clientHeight - HEAD - ROW;
  if (top < box.scrollTop || top > box.scrollTop + room - ROW) box.scrollTop = Math.max(top - room / 2, 0);
}

/* Hands. */

function setUpTimeline() {
  const box = $("timeline"), over = $("overview");
  $("in").onclick = () => zoom(.5);
  $("out").onclick = () => zoom(2);
  $("all").onclick = () => show(0, SPAN);
  box.onscroll = draw;
  addEventListener("resize", draw);
  const at = (event, element) => {
    const rect = element.getBoundingClientRect();
    return (event.clientX - rect.left - gutter() - EDGE) / plot();
  };
  box.addEventListener("wheel", event => {
    const sideways = event.shiftKey ? event.deltaY : event.deltaX;
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      zoom(Math.exp(Math.max(Math.min(event.deltaY, 60), -60) / 150), view[0] + at(event, box) * (view[1] - view[0]));
    } else if (Math.abs(sideways) > Math.abs(event.shiftKey ? 0 : event.deltaY)) {
      event.preventDefault();
      const by = sideways / 600 * (view[1] - view[0]);
      show(view[0] + by, view[1] + by);
    }
  }, { passive: false });

  let drag = null;
  box.onpointerdown = event => { if (event.button === 0) drag = { x: event.clientX, view: [...view], moved: false, on: event.target.dataset.fork }; };
  box.onpointermove = event => {
    if (drag && event.buttons) {
      const moved = event.clientX - drag.x;
      if (!drag.moved && Math.abs(moved) > 4) { drag.moved = true; box.classList.add("dragging"); box.setPointerCapture(event.pointerId); }
      const by = -moved / plot() * (drag.view[1] - drag.view[0]);
      if (drag.moved) show(drag.view[0] + by, drag.view[1] + by);
    }
    tip(event);
  };
  box.onpointerup = event => {
    if (drag && !drag.moved && drag.on !== undefined) {
      const spot = event.target, fork = forks[Number(drag.on)];
      if (Number(spot.dataset.n) > 12) zoom(.3, fork.row[AT]);
      group = spot.dataset.hang >= 0 ? D.hangs[spot.dataset.hang].group : spot.dataset.use ? D.shared[spot.dataset.use].group : fork.groups.has(group) ? group : null;
      choose(fork, false);
      mark();
    }
    drag = null;
    box.classList.remove("dragging");
  };
  box.onpointercancel = () => { drag = null; box.classList.remove("dragging"); };
  box.onpointerleave = () => { $("tip").hidden = true; };

  let brush = null;
  over.onpointerdown = event => { brush = at(event, over) * SPAN; over.setPointerCapture(event.pointerId); };
  over.onpointermove = event => {
    if (brush === null) return;
    const now = at(event, over) * SPAN;
    if (Math.abs(now - brush) > SPAN / 400) show(Math.min(now, brush), Math.max(now, brush));
  };
  over.onpointerup = event => {
    const now = at(event, over) * SPAN, wide = view[1] - view[0];
    if (brush !== null && Math.abs(now - brush) <= SPAN / 400) show(now - wide / 2, now + wide / 2);
    brush = null;
  };

  box.onkeydown = event => {
    const act = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), Home: () => step(-Infinity), End: () => step(Infinity) }[event.key];
    if (act && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); act(); }
  };
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const act = { j: () => step(1), k: () => step(-1), "+": () => zoom(.5), "=": () => zoom(.5), "-": () => zoom(2), "0": () => show(0, SPAN), "/": () => { if ($("find").offsetParent) $("find").focus(); } }[event.key];
    if (act) { event.preventDefault(); act(); }
  });
}
function tip(event) {
  const box = $("tip"), { fork: index, hang, n, use, tip: plain } = event.target.dataset;
  if (index === undefined && !plain) { box.hidden = true; return; }
  if (plain) box.textContent = plain;
  else {
    const fork = forks[Number(index)], row = fork.row;
    const lines = hang !== undefined && Number(hang) >= 0
      ? [`${text(D.hangs[hang].thread)} of ${pid(D.hangs[hang].p)} waits for ${text(D.hangs[hang].what)}`, `since ${clock(D.hangs[hang].since)}`]
      : use !== undefined ? [`${text(D.shared[use].thread)} of ${pid(D.shared[use].p)} ${text(D.shared[use].did)} ${text(D.shared[use].what)}`, text(D.shared[use].why)]
      : [`${clock(row[AT])}  ${row[NUMBER] ? `fork ${row[NUMBER]}` : "fork"} of ${pid(row[PROCESS])} ${text(row[VERDICT])}`,
        ...row[HAZARDS].slice(0, 4).map(k => { const z = D.hazards[k]; return z.thread >= 0 ? `${text(z.thread)} ${text(z.had)} ${text(z.what)}` : `${text(z.what)} ${text(z.had)}`; })];
    if (n) lines.push(`and ${count(Number(n) - 1, "more fork")} here`);
    box.textContent = lines.join("\n");
  }
  box.hidden = false;
  const wide = box.offsetWidth, tall = box.offsetHeight;
  box.style.left = `${Math.max(Math.min(event.clientX + 14, innerWidth - wide - 8), 8)}px`;
  box.style.top = `${event.clientY + 18 + tall > innerHeight ? event.clientY - tall - 12 : event.clientY + 18}px`;
}

/* Paper: no clicks there, so each hazard's worst fork is shown. */

function toPaper() {
  printing = true;
  const some = groupsShown.slice(0, 20);
  $("paper").replaceChildren(...some.map(one => h("section", { className: "card detail" },
    h("p", { className: "quiet" }, `${text(D.groups[one.n][1])}: ${count(one.forks, "fork")}${one.hung ? `, ${one.hung} hung` : ""}`),
    ...detail(worst(inGroup(one.n)), one.n, null))),
  groupsShown.length > some.length ? h("p", { className: "quiet" }, `and ${count(groupsShown.length - some.length, "more")} of which no stack is printed`) : "");
  drawNow();
}
function fromPaper() {
  printing = false;
  $("paper").replaceChildren();
  draw();
}
addEventListener("beforeprint", toPaper);
addEventListener("afterprint", fromPaper);

document.querySelector("main").hidden = false;
const asAddressed = /^#fork-(\d+)$/.exec(location.hash);
setUpFilters();
setUpTimeline();
filter();
if (asAddressed && forks[asAddressed[1]]) { group = null; choose(forks[asAddressed[1]], true); mark(); }
})();
