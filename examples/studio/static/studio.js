// The page: shows the sounds, and sends forms.

import { SoundView } from "./sound.js";
import { ask, Form } from "./forms.js";
import { setVolume } from "./player.js";

const $ = (id) => document.getElementById(id);
const sounds = new Map();
const views = new Map();
let usual = {};
let late = 0; // how far this clock is ahead of the server's, in seconds

const IDEAS = [
  ["create.new_song", "indie folk, warm, female vocal", "[Verse]\nThe kettle sings at half past four\n[Chorus]\nOpen up the kitchen door"],
  ["create.new_instrumental", "slow synthwave, rain on the window"],
  ["create.new_sample", "funk guitar riff, dry, 100 bpm"],
  ["create.new_fx", "heavy wooden door slams in a stone hall"],
];

/** Send a request to the server; returns its response, or throws an error with a text for the user. */
async function send(path, method, value) {
  const body = value && { headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) };
  const response = await fetch(path, { method, ...body })
    .catch(() => { throw new Error("The studio does not respond. Try again: nothing is submitted twice."); });
  if (response.status === 204) return {};
  const answer = await response.json().catch(() => ({ problem: `The studio answered ${response.status}.` }));
  if (!response.ok) throw new Error(answer.problem);
  return answer;
}

/** Submit a form; returns the number of its sound. With the same key, a retry is the same sound. */
const begin = async (form) => (await send("/sounds", "POST", form)).id;

const acts = {
  begin,
  ask: (what, about) => ask(what, about, acts),
  again: (sound) => fetch(`/sounds/${sound.id}/again`, { method: "POST" }),
  rename: (sound, title) => send(`/sounds/${sound.id}`, "PATCH", { title }),
  remove: (sound) => send(`/sounds/${sound.id}`, "DELETE"),
  madeOf: (sound) => [...sounds.values()].filter((other) => other.parent === sound.id),
  find: (id) => sounds.get(id),
  usual: (kind) => usual[kind],
  now: () => Date.now() / 1000 - late,
};

function rootOf(sound) {
  while (sound.parent && sounds.has(sound.parent)) sound = sounds.get(sound.parent);
  return sound;
}

function place(view, sound) {
  const root = rootOf(sound);
  let card = $(`card-${root.id}`);
  if (!card) {
    card = $("card").content.firstElementChild.cloneNode();
    card.id = `card-${root.id}`;
    $("cards").prepend(card);
  }
  card.append(view.element);
}

function show(sound) {
  const before = sounds.get(sound.id);
  sounds.set(sound.id, sound);
  if (!views.has(sound.id)) {
    views.set(sound.id, new SoundView(sound, acts));
    place(views.get(sound.id), sound);
  }
  views.get(sound.id).update(sound);
  views.get(sound.parent)?.offer(); // existing stems are not offered again
  if (before && before.state !== sound.state) announce(sound);
}

function apply(changes) {
  late = Date.now() / 1000 - changes.now;
  usual = changes.usual;
  for (const sound of changes.sounds) {
    try {
      show(sound);
    } catch (error) { // one that cannot be shown does not hide the others
      console.error(`sound ${sound.id}`, error);
    }
  }
  for (const id of [...sounds.keys()].filter((known) => !changes.ids.includes(known))) {
    const { parent } = sounds.get(id);
    sounds.delete(id);
    views.get(id)?.remove();
    views.delete(id);
    const origin = views.get(parent);
    if (origin) {
      origin.splits = []; // splitting it again is a new request
      origin.offer();
    }
  }
  $("empty").hidden = sounds.size > 0;
  showFigures(changes.figures);
}

function announce(sound) {
  const title = views.get(sound.id).title;
  if (sound.state === "ready") $("news").textContent = `${title} is ready.`;
  if (sound.state === "failed") $("news").textContent = `${title} failed. ${sound.problem}`;
}

function showFigures(figures) {
  const making = [...sounds.values()].filter((sound) => !["ready", "failed"].includes(sound.state)).length;
  const parts = [making ? `${making} in progress` : sounds.size ? `${sounds.size} in total` : ""];
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
    const changes = JSON.parse(event.data);
    show("on", changes.service);
    apply(changes);
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

const compose = new Form($("compose"), async (fields, key) => {
  const { kind, ...rest } = fields;
  await begin({ kind, key, fields: rest });
  unfold(false);
});

/** On a phone the form hides the results; wider screens always show it. */
function unfold(open) {
  const button = $("unfold");
  button.parentElement.classList.toggle("open", open);
  button.ariaExpanded = String(open);
  button.textContent = open ? "Close" : "New sound";
}

function prepareVolume() {
  const slider = $("volume");
  try {
    slider.value = localStorage.getItem("volume") ?? 1;
  } catch { /* not allowed: keep the default */ }
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
