// The page: what the server says of the pieces, shown; what a person wishes, sent.

import { PieceView } from "./piece.js";
import { ask, Form } from "./forms.js";
import { setVolume } from "./player.js";

const $ = (id) => document.getElementById(id);
const pieces = new Map();
const views = new Map();
let usual = {};
let late = 0; // how far this clock is ahead of the server's, in seconds

const IDEAS = [
  ["create.new_song", "indie folk, warm, female vocal", "[Verse]\nThe kettle sings at half past four\n[Chorus]\nOpen up the kitchen door"],
  ["create.new_instrumental", "slow synthwave, rain on the window"],
  ["create.new_sample", "funk guitar riff, dry, 100 bpm"],
  ["create.new_fx", "heavy wooden door slams in a stone hall"],
];

/** Send something to the server; gives its answer, or throws an error with words for people. */
async function send(path, method, value) {
  const body = value && { headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) };
  const response = await fetch(path, { method, ...body })
    .catch(() => { throw new Error("The studio does not answer. Try again: this will not be made twice."); });
  if (response.status === 204) return {};
  const answer = await response.json().catch(() => ({ problem: `The studio answered ${response.status}.` }));
  if (!response.ok) throw new Error(answer.problem);
  return answer;
}

/** Ask for a piece; gives its number. The key makes a second try the same piece. */
const begin = async (wish) => (await send("/pieces", "POST", wish)).id;

const acts = {
  begin,
  ask: (what, about) => ask(what, about, acts),
  again: (piece) => fetch(`/pieces/${piece.id}/again`, { method: "POST" }),
  rename: (piece, title) => send(`/pieces/${piece.id}`, "PATCH", { title }),
  remove: (piece) => send(`/pieces/${piece.id}`, "DELETE"),
  madeOf: (piece) => [...pieces.values()].filter((other) => other.parent === piece.id),
  find: (id) => pieces.get(id),
  usual: (kind) => usual[kind],
  now: () => Date.now() / 1000 - late,
};

function rootOf(piece) {
  while (piece.parent && pieces.has(piece.parent)) piece = pieces.get(piece.parent);
  return piece;
}

function place(view, piece) {
  const root = rootOf(piece);
  let card = $(`card-${root.id}`);
  if (!card) {
    card = $("card").content.firstElementChild.cloneNode();
    card.id = `card-${root.id}`;
    $("cards").prepend(card);
  }
  card.append(view.element);
}

function show(piece) {
  const before = pieces.get(piece.id);
  pieces.set(piece.id, piece);
  if (!views.has(piece.id)) {
    views.set(piece.id, new PieceView(piece, acts));
    place(views.get(piece.id), piece);
  }
  views.get(piece.id).update(piece);
  views.get(piece.parent)?.offer(); // what is made need not be offered any more
  if (before && before.state !== piece.state) announce(piece);
}

function take(news) {
  late = Date.now() / 1000 - news.now;
  usual = news.usual;
  for (const piece of news.pieces) {
    try {
      show(piece);
    } catch (error) { // one that cannot be shown hides no other
      console.error(`piece ${piece.id}`, error);
    }
  }
  for (const id of [...pieces.keys()].filter((known) => !news.ids.includes(known))) {
    const { parent } = pieces.get(id);
    pieces.delete(id);
    views.get(id)?.remove();
    views.delete(id);
    const origin = views.get(parent);
    if (origin) {
      origin.splits = []; // to be made once more, it is another wish
      origin.offer();
    }
  }
  $("empty").hidden = pieces.size > 0;
  showFigures(news.figures);
}

function announce(piece) {
  const title = views.get(piece.id).title;
  if (piece.state === "ready") $("news").textContent = `${title} is ready.`;
  if (piece.state === "failed") $("news").textContent = `${title} failed. ${piece.problem}`;
}

function showFigures(figures) {
  const making = [...pieces.values()].filter((piece) => !["ready", "failed"].includes(piece.state)).length;
  const parts = [making ? `${making} in the making` : pieces.size ? `${pieces.size} in all` : ""];
  if (figures) {
    const { requests, bytes } = figures;
    parts.push(`${requests} request${requests === 1 ? "" : "s"}`, `${(bytes / 1e6).toFixed(1)} MB received`);
  }
  $("figures").textContent = parts.join(" · ");
}

function connect() {
  const source = new EventSource("/events");
  const show = (state, text) => {
    $("link").parentElement.dataset.state = state;
    if ($("link").textContent !== text) $("link").textContent = text;
  };
  source.onmessage = (event) => {
    const news = JSON.parse(event.data);
    show("on", news.service);
    take(news);
  };
  source.onerror = () => show("off", "Reconnecting");
}

function fillIdeas() {
  for (const [kind, prompt, lyrics] of IDEAS) {
    const idea = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "idea";
    button.textContent = prompt;
    button.addEventListener("click", () => {
      unfold(true);
      compose.fill({ kind, prompt, lyrics });
    });
    idea.append(button);
    $("ideas").append(idea);
  }
  for (let bar = 0; bar < 40; bar++) {
    const tall = 4 + 36 * Math.abs(Math.sin(bar * 0.33) * Math.cos(bar * 0.11));
    const line = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of Object.entries({ x: bar * 6 + 1, y: 24 - tall / 2, width: 3, height: tall, rx: 1.5 })) {
      line.setAttribute(name, value);
    }
    $("empty-wave").append(line);
  }
}

const compose = new Form($("compose"), async (wishes, key) => {
  const { kind, ...rest } = wishes;
  await begin({ kind, key, wishes: rest });
  unfold(false);
});

/** On a phone the form is in the way of what it made; wider screens show it always. */
function unfold(open) {
  const button = $("unfold");
  button.parentElement.classList.toggle("open", open);
  button.ariaExpanded = String(open);
  button.textContent = open ? "Not now" : "New piece";
}

function prepareVolume() {
  const slider = $("volume");
  try {
    slider.value = localStorage.getItem("volume") ?? 1;
  } catch { /* not allowed: as loud as it is */ }
  const set = () => {
    setVolume(Number(slider.value));
    slider.style.setProperty("--level", `${100 * slider.value}%`);
    slider.setAttribute("aria-valuetext", `${Math.round(100 * slider.value)} %`);
  };
  slider.addEventListener("input", () => {
    set();
    try {
      localStorage.setItem("volume", slider.value);
    } catch { /* as above */ }
  });
  set();
}

$("unfold").addEventListener("click", () => unfold($("unfold").ariaExpanded !== "true"));
prepareVolume();
fillIdeas();
connect();
setInterval(() => views.forEach((view) => view.tick()), 250);
addEventListener("resize", () => views.forEach((view) => view.draw()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => views.forEach((view) => view.draw()));
