
"use strict";
// Everything that comes from a request, a file or the service goes in as text, never as markup.

const PAGE = 50;
const FIELDS = ["number", "name", "route", "state", "text", "accepted", "waited", "ended", "files", "reason", "error", "operation", "metadata", "key", "line", "source"];
const COLUMNS = [
  { key: "line", label: "Line" },
  { key: "job", label: "Job" },
  { key: "route", label: "Route" },
  { key: "state", label: "State" },
  { key: "waited", label: "Waited" },
  { key: "length", label: "Length" },
  { key: "files", label: "Files" },
];
const SORTED_BY = {
  line: (row) => row.line ?? Infinity,
  job: (row) => title(row).toLowerCase(),
  route: (row) => run.routes[row.route],
  state: (row) => row.state,
  waited: (row) => row.waited ?? -1,
  length: (row) => length(row),
  files: (row) => row.files.length,
};

const byId = (id) => document.getElementById(id);
const run = JSON.parse(byId("summary").textContent);
const jobs = [];
for (const block of document.querySelectorAll("script[data-jobs]")) {
  for (const values of JSON.parse(block.textContent)) {
    jobs.push(Object.fromEntries(values.map((value, index) => [FIELDS[index], value])));
  }
  block.remove();
}
// A run of a Python program has no jobs file: its jobs are numbered.
if (jobs.every((row) => row.line === null)) {
  COLUMNS[0].label = "No.";
  for (const row of jobs) row.line = row.number;
}

// A job that is made from an output of another stands below it, as far in as it is down the tree.
const byOperation = new Map(jobs.map((row) => [row.operation, row]));
const byLine = new Map(jobs.map((row) => [row.line, row]));
const dependents = new Map();
for (const row of jobs) {
  if (!row.source) continue;
  row.parent = row.state === "blocked" ? byLine.get(row.source[0]) : byOperation.get(row.source[0]);
  if (!row.parent || row.parent === row) row.parent = null;
  else if (dependents.has(row.parent)) dependents.get(row.parent).push(row);
  else dependents.set(row.parent, [row]);
}
if (dependents.size) {
  const stack = jobs.filter((row) => !row.parent).sort((one, other) => (other.line ?? Infinity) - (one.line ?? Infinity) || other.number - one.number);
  for (let place = 0; stack.length; place++) {
    const row = stack.pop();
    row.place = place;
    row.depth = row.parent ? row.parent.depth + 1 : 0;
    stack.push(...(dependents.get(row) ?? []).reverse());
  }
  SORTED_BY.line = (row) => row.place ?? Infinity;
}

// Writing for people

const whole = new Intl.NumberFormat("en");
const day = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium" });
const moment = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const date = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const hour = new Intl.DateTimeFormat("en-GB", { timeStyle: "short" });
const second = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const at = (format, seconds) => format.format(new Date(seconds * 1000));
const many = (number, noun) => `${whole.format(number)} ${noun}${number === 1 ? "" : "s"}`;

function span(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${clock(seconds)} min`;
  const minutes = Math.round(seconds / 60);
  return minutes % 60 ? `${whole.format(Math.floor(minutes / 60))} h ${minutes % 60} min` : `${whole.format(minutes / 60)} h`;
}

function exactly(seconds) {
  for (const [unit, name] of [[86400, "day"], [3600, "hour"], [60, "minute"]]) {
    if (seconds % unit === 0) return seconds === unit ? name : `${seconds / unit} ${name}s`;
  }
  return seconds === 1 ? "second" : `${seconds} seconds`;
}

function clock(seconds) {
  const all = Math.round(seconds);
  return `${Math.floor(all / 60)}:${String(all % 60).padStart(2, "0")}`;
}

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let power = 0;
  for (; bytes >= 999.5 && power < 4; power++) bytes /= 1000;
  return `${bytes < 10 && power ? bytes.toFixed(1) : Math.round(bytes)} ${units[power]}`;
}

const length = (row) => row.files.reduce((longest, [, , seconds]) => Math.max(longest, seconds), 0);
const title = (row) => row.name || row.text || row.operation || `Job ${row.number ?? row.line}`;
const fileTitle = (row, file) => file[4] || (row.files.length > 1 && row.files.every(([, , , , kind]) => !kind) ? `Take ${row.files.indexOf(file) + 1}` : file[1]);
const routeName = (route) => route.replace(/^(create|adapt)\./, "").replaceAll("_", " ");

// Making elements

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  fill(element, properties, children);
  return element;
}

function draw(tag, properties = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(element, properties, children);
  return element;
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
}

// The head of the page

const OPEN = ["ready", "submitted", "sending", "planned"];
const STATES = ["saved", "failed", "blocked", "uncertain", ...OPEN];

function showHead() {
  const total = run.jobs;
  const count = (state) => run.counts[state] ?? 0;
  const open = OPEN.reduce((sum, state) => sum + count(state), 0);
  const saved = count("saved");
  byId("folder").textContent = run.folder;
  byId("headline").textContent = !total ? "The run has no jobs."
    : saved === total ? (total === 1 ? "The one job is saved." : `All ${whole.format(total)} jobs are saved.`)
    : `${whole.format(saved)} of ${many(total, "job")} ${saved === 1 ? "is" : "are"} saved.`;
  const failed = count("failed");
  const uncertain = count("uncertain");
  const list = byId("advice");
  const advise = (text, ...options) => list.append(make("li", {}, make("span", {}, text), options.length ? offer([run.resume, ...options].join(" ").trim()) : null));
  if (open) advise(`${many(open, "job")} ${open === 1 ? "is" : "are"} unfinished. Resume the run: nothing is paid for twice.`, "");
  if (failed) advise(`${many(failed, "job")} failed. A retry is a new request with a new key, and is paid for again.`, "--retry-failed");
  const blocked = count("blocked");
  if (blocked) advise(`${many(blocked, "job")} ${blocked === 1 ? "is" : "are"} blocked: the source ${blocked === 1 ? "job has" : "jobs have"} no output. A run in which the source succeeds sends ${blocked === 1 ? "it" : "them"}.`);
  if (uncertain) advise(`${many(uncertain, "job")} ${uncertain === 1 ? "is" : "are"} uncertain: sent more than a day ago and never answered, or unknown to the service. Sending ${uncertain === 1 ? "it" : "them"} again may pay twice.`, "--resubmit-uncertain");
  const echoed = Object.entries(run.echo_differences).map(([name, number]) => `${name} (${whole.format(number)})`);
  if (echoed.length) advise(`Fields that the service echoed with different values: ${echoed.join(", ")}. This is not a failure.`);
  list.hidden = !list.childElementCount;
  for (const state of STATES) {
    if (!count(state)) continue;
    byId("states").append(make("span", { class: `is-${state}`, "--share": count(state) }));
    byId("legend").append(make("li", {}, make("span", { class: `dot is-${state}` }), make("b", {}, whole.format(count(state))), ` ${state}`));
  }
  showFacts(saved);
  byId("footer").append(`${checks()}Written ${at(moment, run.made_at)} by soundpiece-async ${run.version}; times are this browser’s. The same data and more as JSON: `, make("a", { href: "report.json" }, "report.json"));
}

// A command, and a button that copies it; where the browser refuses, the command is selected instead.
function offer(command) {
  const code = make("code", {}, command);
  const button = make("button", { type: "button", "aria-label": `Copy: ${command}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
  });
  return make("span", { class: "command" }, code, button);
}

function checks() {
  const meanings = { full: "every frame decoded", header: "size and FLAC header checked, audio not decoded", none: "only the size checked", "": "saved by an earlier version" };
  const parts = Object.entries(meanings).filter(([level]) => run.verified[level]).map(([level, meaning]) => `${whole.format(run.verified[level])} ${level || "unknown"} (${meaning})`);
  return parts.length ? `Checks passed: ${parts.join("; ")}. ` : "";
}

function showFacts(saved) {
  const fact = (name, value, more) => byId("facts").append(make("div", {}, make("dt", {}, name), make("dd", {}, value, more ? make("small", {}, ` ${more}`) : null)));
  if (run.began !== null) fact("Began", at(hour, run.began), at(day, run.began));
  if (run.began !== null && run.ended !== null) fact("Took", span(run.ended - run.began));
  const rate = saved / (run.ended - run.began);
  if (rate > 0 && rate < Infinity) {
    const [unit, per] = [["second", rate], ["minute", rate * 60], ["hour", rate * 3600]].find(([name, value]) => value >= 1 || name === "hour");
    fact("Rate", per < 10 ? per.toFixed(1) : whole.format(Math.round(per)), `jobs per ${unit}`);
  }
  if (run.files) fact("Files", whole.format(run.files), size(run.bytes));
  if (run.seconds) fact("Audio", span(run.seconds));
}

// Throughput

const HEIGHT = 200;
const FOOT = 22;

function niceStep(most, steps) {
  const rough = most / steps;
  const power = 10 ** Math.floor(Math.log10(rough));
  return Math.max(1, [1, 2, 5, 10].find((factor) => factor * power >= rough) * power);
}

function showThroughput() {
  const { width, bins } = run.throughput;
  if (!bins.length) {
    byId("throughput-note").textContent = "No job has ended yet.";
    byId("throughput-table").hidden = true;
    return;
  }
  const laid = bins.map(([start, saved, failed]) => ({ start, saved, failed, place: (start - bins[0][0]) / width }));
  byId("throughput-note").textContent = `Jobs saved${laid.some((bin) => bin.failed) ? ", and failed (on top)," : ""} per ${exactly(width)}`;
  const plot = byId("throughput");
  let drawn = 0;
  new ResizeObserver(() => {
    if (Math.abs(plot.clientWidth - drawn) < 1) return;
    drawn = plot.clientWidth;
    plot.replaceChildren(drawThroughput(laid, width, drawn));
  }).observe(plot);
  byId("throughput-table").addEventListener("toggle", () => tabulate(laid), { once: true });
}

function drawThroughput(bins, seconds, width) {
  const most = Math.max(...bins.map((bin) => bin.saved + bin.failed));
  const step = niceStep(most, 4);
  const top = Math.ceil(most / step) * step;
  const left = 10 + 7.5 * whole.format(top).length;
  const places = bins.at(-1).place + 1;
  const wide = Math.min((width - left) / places, 48);
  const x = (place) => left + place * wide;
  const y = (count) => HEIGHT - (count / top) * (HEIGHT - 8);
  const peak = bins.reduce((best, bin) => (bin.saved + bin.failed > best.saved + best.failed ? bin : best));
  const picture = draw("svg", {
    height: HEIGHT + FOOT, role: "img",
    "aria-label": `Bar chart of the jobs that ended in each ${exactly(seconds)}: at most ${whole.format(most)}, at ${at(moment, peak.start)}. The table below has the same data.`,
  });
  for (let count = 0; count <= top; count += step) {
    picture.append(draw("line", { class: "grid", x1: left, x2: width, y1: y(count), y2: y(count) }));
    picture.append(draw("text", { x: left - 10, y: y(count) + 4, "text-anchor": "end" }, whole.format(count)));
  }
  const gap = wide > 4 ? Math.min(2, wide / 4) : 0;
  const tip = (bin) => [`${at(seconds < 60 ? second : hour, bin.start)}`, `${whole.format(bin.saved)} saved`, ...(bin.failed ? [`${whole.format(bin.failed)} failed`] : [])].join(", ");
  for (const bin of bins) {
    const bar = (name, from, to) => to > from && picture.append(draw("rect", { class: name, x: x(bin.place), width: wide - gap, y: y(to), height: y(from) - y(to) }));
    bar("good", 0, bin.saved);
    bar("bad", bin.saved, bin.saved + bin.failed);
    const column = draw("rect", { class: "column", x: x(bin.place), width: wide, y: 0, height: HEIGHT });
    column.addEventListener("pointerenter", () => showTip(tip(bin), x(bin.place) + wide / 2));
    column.addEventListener("pointerleave", hideTip);
    picture.append(column);
  }
  labelTime(picture, bins[0].start, bins.at(-1).start + seconds, (time) => x((time - bins[0].start) / seconds));
  return picture;
}

// Ticks at round times of this browser's clock, as many as there is room for.
const TICKS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

function labelTime(picture, from, to, x) {
  const wide = (seconds) => x(from + seconds) - x(from);
  let step = TICKS.find((seconds) => wide(seconds) >= 68);
  for (step ??= 2 * 86400; wide(step) < 68;) step *= 2;
  let taken = -Infinity; // labels that would meet the one before are left out
  const ahead = -60 * new Date(from * 1000).getTimezoneOffset();
  for (let time = Math.ceil((from + ahead) / step) * step - ahead; time <= to; time += step) {
    const format = (time + ahead) % 86400 === 0 ? date : step < 60 ? second : hour;
    const text = at(format, time);
    const room = 6.5 * text.length;
    const anchor = wide(time - from) < room / 2 ? "start" : wide(to - time) < room / 2 ? "end" : "middle";
    const begins = x(time) - { start: 0, middle: room / 2, end: room }[anchor];
    if (begins > taken) {
      picture.append(draw("text", { x: x(time), y: HEIGHT + 17, "text-anchor": anchor }, text));
      taken = begins + room + 8;
    }
    picture.append(draw("line", { class: "grid", x1: x(time), x2: x(time), y1: HEIGHT, y2: HEIGHT + 5 }));
  }
}

function showTip(text, x) {
  hideTip();
  const plot = byId("throughput");
  const tip = make("div", { class: "tip" }, text);
  plot.append(tip);
  tip.style.left = `${Math.max(0, Math.min(plot.clientWidth - tip.offsetWidth, x - tip.offsetWidth / 2))}px`;
}

function hideTip() {
  byId("throughput").querySelector(".tip")?.remove();
}

function tabulate(bins) {
  const head = make("tr", {}, ...["From", "Saved", "Failed"].map((name) => make("th", { scope: "col" }, name)));
  const rows = bins.map((bin) => make("tr", {}, make("th", { scope: "row" }, at(moment, bin.start)), make("td", {}, whole.format(bin.saved)), make("td", {}, whole.format(bin.failed))));
  byId("throughput-table").querySelector("div").append(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

// Waiting: a table whose second column is a picture

function showWaiting() {
  if (!run.waiting.length) {
    byId("waiting-note").textContent = "No job is ready yet.";
    return;
  }
  byId("waiting-note").textContent = "From accepted to ready. The line spans p5 to p95, the band the middle half, the mark is the median";
  const most = Math.max(...run.waiting.map((route) => route.p95)) || 1;
  const step = niceStep(most, 4);
  const top = Math.ceil(most / step) * step;
  const share = (seconds) => `${(100 * seconds) / top}%`;
  const heads = [["Route", "col"], [null], ["Median", "col"], ["p95", "col"]];
  const head = make("tr", {}, ...heads.map(([name, scope]) => (name ? make("th", { scope }, name) : make("td", { class: "range" }))));
  const rows = run.waiting.toSorted((a, b) => a.median - b.median).map((route) => make("tr", { title: `${route.route}: ${many(route.jobs, "job")}, at most ${span(route.longest)}` },
    make("th", { scope: "row" }, make("bdi", {}, routeName(route.route))),
    make("td", { class: "range" }, make("div", { class: "track", "aria-hidden": "true" },
      make("i", { class: "most", "--from": share(route.p5), "--to": share(route.p95) }),
      make("i", { class: "half", "--from": share(route.p25), "--to": share(route.p75) }),
      make("i", { class: "middle", "--from": share(route.median), "--to": share(route.median) }))),
    make("td", {}, span(route.median)),
    make("td", {}, span(route.p95))));
  const scale = make("div", { class: "scale" });
  for (let seconds = 0; seconds <= top; seconds += step) scale.append(make("span", { "--from": share(seconds) }, seconds ? exactly(seconds).replace(/ ?(second|minute|hour|day)s?$/, (unit) => ` ${unit.trim()[0]}`).replace(/^ /, "1 ") : "0"));
  const foot = make("tr", { "aria-hidden": "true" }, make("td"), make("td", { class: "range" }, scale), make("td"), make("td"));
  byId("waiting").append(make("table", { class: "waits" }, make("thead", {}, head), make("tbody", {}, ...rows), make("tfoot", {}, foot)));
}

// Failures

function showFailures() {
  byId("failures").hidden = !run.failures.length;
  for (const reason of run.failures) {
    const button = make("button", { type: "button" }, "Show", make("span", { class: "unseen" }, ` the ${many(reason.jobs, "job")}: ${reason.code || reason.kind}`));
    button.addEventListener("click", () => {
      choose({ ...ALL, reason: reason.id });
      byId("jobs").scrollIntoView();
      byId("jobs").focus({ preventScroll: true });
    });
    byId("failures").querySelector("ul").append(make("li", {},
      make("span", { class: "number" }, whole.format(reason.jobs)),
      make("div", {}, make("b", {}, make("bdi", {}, reason.code || reason.kind)), reason.code ? ` ${reason.kind}` : "",
        reason.retryable ? " · a retry may succeed" : " · a retry cannot succeed: edit the line",
        make("p", { class: "text", dir: "auto" }, reason.text)),
      button));
  }
}

// The table: filtered and sorted as a whole, shown a page at a time

const ALL = { search: "", state: "", route: "", reason: null };
let chosen = { ...ALL };
let order = { key: "line", falling: false };
let shown = jobs;
let scattered = false;
let page = 0;

function prepareTable() {
  for (const { key, label } of COLUMNS) {
    const button = make("button", { type: "button" }, label);
    button.addEventListener("click", () => sortBy(key, order.key === key && !order.falling));
    byId("table").tHead.rows[0].append(make("th", { role: "columnheader", scope: "col", class: key }, button, make("span", { class: "bare" }, label)));
    byId("sort").append(make("option", { value: key }, label), make("option", { value: `${key} falling` }, `${label}, falling`));
  }
  const option = (select, value, text) => byId(select).append(make("option", { value }, text));
  option("state", "", "All");
  for (const state of STATES) if (run.counts[state]) option("state", state, `${state} (${whole.format(run.counts[state])})`);
  option("route", "", "All");
  run.routes.forEach((route, index) => option("route", index, route));
  let timer;
  byId("search").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => choose({ ...chosen, search: byId("search").value }), 120);
  });
  byId("state").addEventListener("change", () => choose({ ...chosen, state: byId("state").value }));
  byId("route").addEventListener("change", () => choose({ ...chosen, route: byId("route").value }));
  byId("sort").addEventListener("change", () => sortBy(...byId("sort").value.split(" ")));
  byId("clear").addEventListener("click", () => {
    choose({ ...ALL });
    byId("search").focus();
  });
  document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
  for (const button of document.querySelectorAll("[data-turn]")) button.addEventListener("click", () => turn(button.dataset.turn));
  byId("page").addEventListener("change", () => turn(Number(byId("page").value) - 1));
}

const hay = (row) => (row.hay ??= [row.name, row.text, row.operation, row.metadata, row.error, ...row.files.map(([, label]) => label)].join("\n").toLowerCase().replace(/[^\S\n]+/g, " "));

function choose(wanted) {
  chosen = wanted;
  const phrase = chosen.search.toLowerCase().trim().replace(/\s+/g, " ");
  const words = phrase.split(" ");
  const candidates = jobs.filter((row) => (chosen.state === "" || row.state === chosen.state)
    && (chosen.route === "" || row.route === Number(chosen.route))
    && (chosen.reason === null || row.reason === chosen.reason));
  // What was typed, as it was typed; only where nothing has that, its words in any order.
  shown = phrase ? candidates.filter((row) => hay(row).includes(phrase)) : candidates;
  scattered = words.length > 1 && !shown.length;
  if (scattered) shown = candidates.filter((row) => words.every((word) => hay(row).includes(word)));
  byId("state").value = chosen.state;
  byId("route").value = chosen.route;
  if (byId("search").value !== chosen.search) byId("search").value = chosen.search;
  sortBy(order.key, order.falling);
}

function sortBy(key, falling) {
  order = { key, falling: Boolean(falling) };
  const read = SORTED_BY[key];
  const sign = falling ? -1 : 1;
  const keyed = shown.map((row) => [read(row), row]);
  keyed.sort(([a, one], [b, other]) => (a < b ? -sign : a > b ? sign : one.number - other.number));
  shown = keyed.map(([, row]) => row);
  for (const [index, cell] of [...byId("table").tHead.rows[0].cells].entries()) {
    if (COLUMNS[index].key === key) cell.setAttribute("aria-sort", falling ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  }
  byId("sort").value = falling ? `${key} falling` : key;
  page = 0;
  showPage();
}

const pages = () => Math.max(1, Math.ceil(shown.length / PAGE));

function turn(where) {
  const wanted = { first: 0, back: page - 1, next: page + 1, last: pages() - 1 }[where] ?? where;
  const before = page;
  page = Math.min(Math.max(Number.isFinite(wanted) ? Math.floor(wanted) : page, 0), pages() - 1);
  showPage();
  if (page !== before) byId("found").scrollIntoView();
}

function showPage() {
  const from = page * PAGE;
  const rows = shown.slice(from, from + PAGE);
  byId("table").tBodies[0].replaceChildren(...rows.map(showRow));
  byId("table").hidden = !rows.length;
  const wanted = run.failures.find((reason) => reason.id === chosen.reason);
  const reason = wanted ? ` that failed with ${wanted.code || wanted.kind}` : "";
  const filtered = Object.entries(ALL).some(([name, value]) => chosen[name] !== value);
  byId("found").textContent = !rows.length ? `No job matches${reason}.`
    : `${whole.format(from + 1)} to ${whole.format(from + rows.length)} of ${many(shown.length, "job")}${reason}${scattered ? " with all of these words" : ""}`;
  byId("clear").hidden = !filtered;
  document.querySelector(".pager").hidden = pages() === 1;
  byId("page").value = page + 1;
  byId("page").max = pages();
  byId("pages").textContent = whole.format(pages());
  cue();
  for (const button of document.querySelectorAll("[data-turn]")) {
    const useless = ["first", "back"].includes(button.dataset.turn) ? page === 0 : page === pages() - 1;
    button.setAttribute("aria-disabled", useless);
  }
}

function showRow(row) {
  const name = make("button", { type: "button", class: "name", "aria-expanded": "false" }, make("bdi", {}, title(row)));
  const small = row.name ? row.text : row.text ? row.operation : "";
  const cell = (key, ...children) => make("td", { role: "cell", class: key, "data-label": COLUMNS[0].label }, ...children);
  const line = make("tr", { role: "row" },
    cell("line", row.line === null ? "" : whole.format(row.line)),
    indent(row, cell("job", name,
      row.parent ? make("span", { class: "unseen" }, ` made from ${title(row.parent)}`) : null,
      small ? make("p", { class: row.name ? "text" : "text id", dir: "auto" }, small) : null)),
    cell("route", make("bdi", {}, routeName(run.routes[row.route]))),
    cell("state", make("span", { class: `is-${row.state}` }, make("span", { class: "dot" }), make("span", { class: "label" }, row.state))),
    cell("waited", row.waited === null ? "" : span(row.waited)),
    cell("length", row.files.length ? clock(length(row)) : ""),
    cell("files", row.error ? make("p", { class: "text error", dir: "auto" }, row.error) : null, ...row.files.map((file) => showFile(row, file))));
  name.addEventListener("click", () => {
    const open = name.getAttribute("aria-expanded") === "true";
    name.setAttribute("aria-expanded", !open);
    line.classList.toggle("opened", !open);
    if (open) line.nextElementSibling.remove();
    else line.after(showMore(row));
  });
  return line;
}

function indent(row, cell) {
  if (row.depth && order.key === "line") cell.style.setProperty("--depth", Math.min(row.depth, 8));
  return cell;
}

function showMore(row) {
  const list = make("dl");
  const tell = (label, value) => value && list.append(make("dt", {}, label), make("dd", { dir: "auto" }, value));
  if (!row.name && row.text) tell("Prompt", row.text);
  tell("Route", run.routes[row.route]);
  tell("Operation", row.operation);
  if (row.parent) tell("Made from", row.state === "blocked" ? title(row.parent) : `${title(row.parent)}, output ${row.source[1]}`);
  tell("Key", row.key);
  tell("Accepted", row.accepted === null ? "" : at(moment, row.accepted));
  tell("Ready", row.accepted === null || row.waited === null ? "" : at(moment, row.accepted + row.waited));
  tell("Ended", row.ended === null ? "" : at(moment, row.ended));
  tell("Metadata", row.metadata);
  if (row.files.length) list.append(make("dt", {}, row.files.length === 1 ? "File" : "Files"), make("dd", {}, ...row.files.map(showLink)));
  return make("tr", { role: "row", class: "more" }, make("td", { role: "cell", colspan: COLUMNS.length }, list));
}

function showLink([href, label, seconds, bytes]) {
  const name = href === null ? label : decodeURIComponent(href);
  const link = href === null ? make("bdi", {}, name) : make("a", { href, download: label }, make("bdi", {}, name));
  return make("span", { class: "file" }, link, ` ${size(bytes)}, ${clock(seconds)}`);
}

// One player for all files: the deck near the top, and a row's own controls, which show the same

const deck = byId("deck");
const audio = deck.querySelector("audio");
let current = null; // { row, file }
let faulty = false;

const playable = (row) => row.files.filter(([href]) => href !== null);
const isCurrent = (row, file) => current !== null && current.row === row && current.file === file;

function showFile(row, file) {
  const [href, label, seconds] = file;
  const name = fileTitle(row, file);
  const named = row.files.length > 1 || href === null;
  if (href === null) return make("p", { class: "text", dir: "auto" }, label);
  const spoken = row.files.length > 1 ? `${name} of ${title(row)}` : title(row);
  const button = make("button", { type: "button", class: "play" },
    draw("svg", { viewBox: "0 0 36 36", "aria-hidden": "true" }, draw("path", { class: "go", d: "M14.5 11.5v13l10-6.5z" }), draw("path", { class: "pause", d: "M12.5 12h4v12h-4zM19.5 12h4v12h-4z" })));
  const seek = make("input", { type: "range", min: 0, max: seconds, step: "any", value: 0, "aria-label": `Position in ${spoken}` });
  const player = make("div", { class: named ? "player named" : "player" }, named ? make("bdi", { class: "label", title: label }, name) : null, button, seek, make("span", { class: "time" }));
  player.of = { row, file };
  button.addEventListener("click", () => (isCurrent(row, file) ? toggle() : play(row, file)));
  seek.addEventListener("input", () => {
    if (!isCurrent(row, file)) select(row, file);
    go(Number(seek.value));
  });
  showPlayer(player, spoken);
  return player;
}

// What a player shows: the deck's state if its file is the deck's
function showPlayer(player, spoken) {
  const { row, file } = player.of;
  const seconds = file[2];
  const mine = isCurrent(row, file);
  const on = mine && !audio.paused && !audio.ended;
  const at = mine ? wanted ?? audio.currentTime : 0;
  const seek = player.querySelector("input[type=range]");
  player.spoken = spoken ?? player.spoken;
  player.classList.toggle("playing", on);
  player.classList.toggle("broken", mine && faulty);
  player.querySelector(".play").setAttribute("aria-label", `${on ? "Pause" : "Play"} ${player.spoken}`);
  seek.max = seconds;
  seek.value = at;
  seek.style.setProperty("--played", `${seconds ? (100 * Number(seek.value)) / seconds : 0}%`);
  seek.setAttribute("aria-valuetext", `${clock(at)} of ${clock(seconds)}`);
  player.querySelector(".time").textContent = player === deck ? `${clock(at)} / ${clock(seconds)}` : clock(at || seconds);
}

function showPlayers() {
  if (!current) return;
  showPlayer(deck);
  for (const player of byId("table").querySelectorAll(".player")) showPlayer(player);
}

// Where to go once the file is open: nothing is fetched before it is played
let wanted = null;

function go(seconds) {
  if (audio.src && audio.readyState) {
    audio.currentTime = seconds;
  } else {
    wanted = seconds;
  }
  showPlayers();
}

function select(row, file) {
  audio.pause();
  audio.removeAttribute("src");
  current = { row, file };
  faulty = false;
  wanted = null;
  deck.of = current;
  deck.hidden = false;
  deck.querySelector("h2 bdi").textContent = title(row);
  deck.querySelector(".note").textContent = [row.files.length > 1 ? fileTitle(row, file) : "", routeName(run.routes[row.route]), row.name ? row.text : ""].filter(Boolean).join(" · ");
  deck.querySelector(".trouble").hidden = true;
  byId("deck-seek").setAttribute("aria-label", `Position in ${title(row)}`);
  deck.spoken = row.files.length > 1 ? `${fileTitle(row, file)} of ${title(row)}` : title(row);
  showPlayers();
}

function play(row, file) {
  select(row, file);
  toggle();
}

function toggle() {
  if (!audio.hasAttribute("src")) audio.src = current.file[0];
  if (audio.paused) audio.play().catch(() => {});
  else audio.pause();
}

// The next file in the order of the table, or the one before; null at its end
function neighbour(step) {
  const files = playable(current.row);
  const beside = files[files.indexOf(current.file) + step];
  if (beside) return { row: current.row, file: beside };
  for (let place = shown.indexOf(current.row) + step; place >= 0 && place < shown.length; place += step) {
    const found = playable(shown[place]);
    if (found.length) return { row: shown[place], file: found.at(step > 0 ? 0 : -1) };
  }
  return null;
}

function step(by) {
  const next = neighbour(by);
  const on = !audio.paused || audio.ended;
  if (!next) return;
  select(next.row, next.file);
  if (on) toggle();
}

// While nothing was heard yet, the deck has the first file of what the table shows
function cue() {
  if (current && (audio.hasAttribute("src") || wanted !== null)) return;
  const row = shown.find((one) => playable(one).length);
  if (row) select(row, playable(row)[0]);
}

function prepareDeck() {
  byId("deck-play").addEventListener("click", toggle);
  byId("deck-seek").addEventListener("input", () => go(Number(byId("deck-seek").value)));
  for (const button of deck.querySelectorAll("[data-step]")) button.addEventListener("click", () => step(Number(button.dataset.step)));
  for (const event of ["play", "pause", "timeupdate", "seeked"]) audio.addEventListener(event, showPlayers);
  audio.addEventListener("loadedmetadata", () => {
    if (wanted !== null) audio.currentTime = wanted;
    wanted = null;
  });
  audio.addEventListener("ended", () => {
    if (byId("play-on").checked) step(1);
    else showPlayers();
  });
  audio.addEventListener("error", () => {
    if (!audio.hasAttribute("src")) return;
    faulty = true;
    const trouble = deck.querySelector(".trouble");
    trouble.textContent = `${deck.spoken} cannot be played: is ${decodeURIComponent(current.file[0])} still beside this page?`;
    trouble.hidden = false;
    showPlayers();
  });
}

showHead();
showThroughput();
showWaiting();
showFailures();
prepareTable();
prepareDeck();
choose({ ...ALL });
