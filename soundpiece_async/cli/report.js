
"use strict";
// Everything that comes from a request, a file or the service goes in as text, never as markup.

const PAGE = 50;
const FIELDS = ["number", "name", "route", "state", "text", "accepted", "waited", "ended", "files", "reason", "error", "operation", "metadata"];
const COLUMNS = [
  { key: "number", label: "No." },
  { key: "piece", label: "Piece" },
  { key: "route", label: "Route" },
  { key: "state", label: "State" },
  { key: "waited", label: "Waited" },
  { key: "length", label: "Length" },
  { key: "files", label: "Files" },
];
const SORTED_BY = {
  number: (row) => row.number,
  piece: (row) => row.name.toLowerCase(),
  route: (row) => run.routes[row.route],
  state: (row) => row.state,
  waited: (row) => row.waited ?? -1,
  length: (row) => length(row),
  files: (row) => row.files.length,
};

const byId = (id) => document.getElementById(id);
const run = JSON.parse(byId("summary").textContent);
const pieces = [];
for (const block of document.querySelectorAll("script[data-pieces]")) {
  for (const values of JSON.parse(block.textContent)) {
    pieces.push(Object.fromEntries(values.map((value, index) => [FIELDS[index], value])));
  }
  block.remove();
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

const length = (row) => row.files.reduce((sum, [, , seconds]) => sum + seconds, 0);
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
const STATES = ["saved", "failed", "uncertain", ...OPEN];

function showHead() {
  const total = run.pieces;
  const count = (state) => run.counts[state] ?? 0;
  const open = OPEN.reduce((sum, state) => sum + count(state), 0);
  const saved = count("saved");
  byId("folder").textContent = run.folder;
  byId("headline").textContent = !total ? "Nothing was planned."
    : saved === total ? (total === 1 ? "The one piece is saved." : `All ${whole.format(total)} pieces are saved.`)
    : `${whole.format(saved)} of ${many(total, "piece")} ${saved === 1 ? "is" : "are"} saved.`;
  const advice = [];
  if (open) advice.push(`${many(open, "piece")} ${open === 1 ? "is" : "are"} unfinished: run the same command again, and ${open === 1 ? "it goes" : "they go"} on with the same ${open === 1 ? "key" : "keys"}.`);
  if (count("failed")) advice.push(`${many(count("failed"), "piece")} failed; --retry-failed buys ${count("failed") === 1 ? "it" : "them"} anew.`);
  if (count("uncertain")) advice.push(`${many(count("uncertain"), "job")} ${count("uncertain") === 1 ? "is" : "are"} uncertain: sent more than a day ago and never answered, or unknown to the service; --resubmit-uncertain may pay twice.`);
  const echoed = Object.entries(run.echo_differences).map(([name, number]) => `${name} (${whole.format(number)})`);
  if (echoed.length) advice.push(`The service echoed otherwise than sent: ${echoed.join(", ")}; that is no failure.`);
  byId("advice").textContent = advice.join(" ");
  byId("advice").hidden = !advice.length;
  for (const state of STATES) {
    if (!count(state)) continue;
    byId("states").append(make("span", { class: `is-${state}`, "--share": count(state) }));
    byId("legend").append(make("li", {}, make("span", { class: `dot is-${state}` }), make("b", {}, whole.format(count(state))), ` ${state}`));
  }
  showFacts(saved);
  byId("footer").append(`${checks()}Written ${at(moment, run.made_at)} by soundpiece-async ${run.version}; times are this browser’s. All of it, and more, for programs: `, make("a", { href: "report.json" }, "report.json"));
}

function checks() {
  const meanings = { full: "every frame was decoded", header: "size and FLAC header were checked, and not the audio behind it", none: "the size was checked, and nothing else", "": "an earlier version saved them" };
  const parts = Object.entries(meanings).filter(([level]) => run.verified[level]).map(([level, meaning]) => `${whole.format(run.verified[level])} ${level || "unknown"} (${meaning})`);
  return parts.length ? `Checks that files have passed: ${parts.join("; ")}. ` : "";
}

function showFacts(saved) {
  const fact = (name, value, more) => byId("facts").append(make("div", {}, make("dt", {}, name), make("dd", {}, value, more ? make("small", {}, ` ${more}`) : null)));
  if (run.began !== null) fact("Began", at(hour, run.began), at(day, run.began));
  if (run.began !== null && run.ended !== null) fact("Took", span(run.ended - run.began));
  const rate = saved / (run.ended - run.began);
  if (rate > 0 && rate < Infinity) {
    const [unit, per] = [["second", rate], ["minute", rate * 60], ["hour", rate * 3600]].find(([name, value]) => value >= 1 || name === "hour");
    fact("Rate", per < 10 ? per.toFixed(1) : whole.format(Math.round(per)), `pieces ${unit === "hour" ? "an" : "a"} ${unit}`);
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
    byId("throughput-note").textContent = "Nothing has ended yet.";
    byId("throughput-table").hidden = true;
    return;
  }
  const laid = bins.map(([start, saved, failed]) => ({ start, saved, failed, place: (start - bins[0][0]) / width }));
  byId("throughput-note").textContent = `Pieces that were saved${laid.some((bin) => bin.failed) ? ", or failed (on top)," : ""} in each ${exactly(width)}`;
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
    "aria-label": `Bar chart of the pieces that ended in each ${exactly(seconds)}: at most ${whole.format(most)}, at ${at(moment, peak.start)}. The same stands in the table below.`,
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
  const ahead = -60 * new Date(from * 1000).getTimezoneOffset();
  for (let time = Math.ceil((from + ahead) / step) * step - ahead; time <= to; time += step) {
    const format = (time + ahead) % 86400 === 0 ? date : step < 60 ? second : hour;
    picture.append(draw("text", { x: x(time), y: HEIGHT + 17, "text-anchor": wide(time - from) < 16 ? "start" : wide(to - time) < 16 ? "end" : "middle" }, at(format, time)));
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
    byId("waiting-note").textContent = "No piece has become ready yet.";
    return;
  }
  byId("waiting-note").textContent = "From accepted to known to be ready: the line spans 9 in 10 pieces, the band the middle half, the mark is the median";
  const most = Math.max(...run.waiting.map((route) => route.p95)) || 1;
  const step = niceStep(most, 4);
  const top = Math.ceil(most / step) * step;
  const share = (seconds) => `${(100 * seconds) / top}%`;
  const heads = [["Route", "col"], [null], ["Median", "col"], ["95 in 100", "col"]];
  const head = make("tr", {}, ...heads.map(([name, scope]) => (name ? make("th", { scope }, name) : make("td", { class: "range" }))));
  const rows = run.waiting.toSorted((a, b) => a.median - b.median).map((route) => make("tr", { title: `${route.route}: ${many(route.pieces, "piece")}, at most ${span(route.longest)}` },
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
    const button = make("button", { type: "button" }, "Show", make("span", { class: "unseen" }, ` the ${many(reason.pieces, "piece")}: ${reason.code || reason.kind}`));
    button.addEventListener("click", () => {
      choose({ ...ALL, reason: reason.id });
      byId("pieces").scrollIntoView();
      byId("pieces").focus({ preventScroll: true });
    });
    byId("failures").querySelector("ul").append(make("li", {},
      make("span", { class: "number" }, whole.format(reason.pieces)),
      make("div", {}, make("b", {}, make("bdi", {}, reason.code || reason.kind)), reason.code ? ` ${reason.kind}` : "",
        reason.retryable ? " · may come out well when bought anew" : "",
        make("p", { class: "text", dir: "auto" }, reason.text)),
      button));
  }
}

// The table: filtered and sorted as a whole, shown a page at a time

const ALL = { search: "", state: "", route: "", reason: null };
let chosen = { ...ALL };
let order = { key: "number", falling: false };
let shown = pieces;
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

const hay = (row) => (row.hay ??= [row.name, row.text, row.operation, row.metadata, row.error, ...row.files.map(([, label]) => label)].join("\n").toLowerCase());

function choose(wanted) {
  chosen = wanted;
  const words = chosen.search.toLowerCase().split(/\s+/).filter(Boolean);
  shown = pieces.filter((row) => (chosen.state === "" || row.state === chosen.state)
    && (chosen.route === "" || row.route === Number(chosen.route))
    && (chosen.reason === null || row.reason === chosen.reason)
    && words.every((word) => hay(row).includes(word)));
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
  playing?.pause();
  const from = page * PAGE;
  const rows = shown.slice(from, from + PAGE);
  byId("table").tBodies[0].replaceChildren(...rows.map(showRow));
  byId("table").hidden = !rows.length;
  const wanted = run.failures.find((reason) => reason.id === chosen.reason);
  const reason = wanted ? ` that failed with ${wanted.code || wanted.kind}` : "";
  const filtered = Object.entries(ALL).some(([name, value]) => chosen[name] !== value);
  byId("found").textContent = !rows.length ? `No piece is like that${reason}.`
    : `${whole.format(from + 1)} to ${whole.format(from + rows.length)} of ${many(shown.length, "piece")}${reason}`;
  byId("clear").hidden = !filtered;
  document.querySelector(".pager").hidden = pages() === 1;
  byId("page").value = page + 1;
  byId("page").max = pages();
  byId("pages").textContent = whole.format(pages());
  for (const button of document.querySelectorAll("[data-turn]")) {
    const useless = ["first", "back"].includes(button.dataset.turn) ? page === 0 : page === pages() - 1;
    button.setAttribute("aria-disabled", useless);
  }
}

function showRow(row) {
  const name = make("button", { type: "button", class: "name", "aria-expanded": "false" }, make("bdi", {}, row.name));
  const cell = (key, ...children) => make("td", { role: "cell", class: key }, ...children);
  const line = make("tr", { role: "row" },
    cell("number", whole.format(row.number)),
    cell("piece", name,
      row.text ? make("p", { class: "text", dir: "auto" }, row.text) : null),
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

function showMore(row) {
  const list = make("dl");
  const tell = (label, value) => value && list.append(make("dt", {}, label), make("dd", { dir: "auto" }, value));
  tell("Route", run.routes[row.route]);
  tell("Operation", row.operation);
  tell("Accepted", row.accepted === null ? "" : at(moment, row.accepted));
  tell("Ready", row.accepted === null || row.waited === null ? "" : at(moment, row.accepted + row.waited));
  tell("Ended", row.ended === null ? "" : at(moment, row.ended));
  tell("Size", row.files.length ? size(row.files.reduce((sum, [, , , bytes]) => sum + bytes, 0)) : "");
  tell("Metadata", row.metadata);
  return make("tr", { role: "row", class: "more" }, make("td", { role: "cell", colspan: COLUMNS.length }, list));
}

// Players; one plays at a time

let playing = null;

function showFile(row, [href, label, seconds, , kind]) {
  if (href === null) return make("p", { class: "text", dir: "auto" }, label);
  const named = row.files.length > 1;
  const audio = make("audio", { src: href, preload: "none" });
  const button = make("button", { type: "button", class: "play", "aria-label": `Play ${label}` },
    draw("svg", { viewBox: "0 0 36 36", "aria-hidden": "true" }, draw("path", { class: "go", d: "M14.5 11.5v13l10-6.5z" }), draw("path", { class: "pause", d: "M12.5 12h4v12h-4zM19.5 12h4v12h-4z" })));
  const seek = make("input", { type: "range", min: 0, max: seconds, step: "any", value: 0, "aria-label": `Position in ${label}` });
  const time = make("span", { class: "time" }, clock(seconds));
  const player = make("div", { class: named ? "player named" : "player" }, named ? make("bdi", { class: "label", title: label }, kind || label) : null, button, seek, time, audio);
  const showTime = () => {
    seek.style.setProperty("--played", `${seconds ? (100 * Number(seek.value)) / seconds : 0}%`);
    seek.setAttribute("aria-valuetext", `${clock(Number(seek.value))} of ${clock(seconds)}`);
    time.textContent = clock(Number(seek.value) || seconds);
  };
  const showState = () => {
    const on = !audio.paused && !audio.ended;
    player.classList.toggle("playing", on);
    button.setAttribute("aria-label", `${on ? "Pause" : "Play"} ${label}`);
  };
  button.addEventListener("click", () => (audio.paused ? audio.play().catch(() => {}) : audio.pause()));
  seek.addEventListener("input", () => {
    audio.currentTime = Number(seek.value);
    showTime();
  });
  audio.addEventListener("timeupdate", () => {
    seek.value = audio.currentTime;
    showTime();
  });
  audio.addEventListener("play", () => {
    if (playing !== audio) playing?.pause();
    playing = audio;
    showState();
  });
  audio.addEventListener("pause", showState);
  audio.addEventListener("ended", () => {
    seek.value = 0;
    showTime();
    showState();
    if (byId("play-on").checked) playNext(audio);
  });
  audio.addEventListener("error", () => {
    player.classList.add("broken");
    showState();
    player.append(make("span", { class: "trouble", role: "alert" }, "cannot be played: is it still beside this page?"));
  }, { once: true });
  showTime();
  return player;
}

function playNext(audio) {
  const players = () => [...byId("table").querySelectorAll("audio")];
  let next = players()[players().indexOf(audio) + 1];
  if (!next && page < pages() - 1) {
    turn("next");
    [next] = players();
  }
  next?.play().catch(() => {});
}

showHead();
showThroughput();
showWaiting();
showFailures();
prepareTable();
choose({ ...ALL });
