// One sound on the page.

import { makeKey } from "./forms.js";
import { Player } from "./player.js";
import { draw, imagined, peaksOf } from "./wave.js";
import { MUSIC, SONGS, STEMS, capital, clock, describe, fileName, titleOf } from "./words.js";

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) entry.target.dispatchEvent(new Event("appear"));
}, { rootMargin: "200px" });

export class SoundView {
  constructor(sound, acts) {
    Object.assign(this, { sound, acts, take: 0, lanes: [], state: null, splits: [] });
    this.element = document.getElementById("sound").content.firstElementChild.cloneNode(true);
    this.$ = (selector) => this.element.querySelector(selector);
    const heading = this.$("h3");
    heading.id = `title-${sound.id}`;
    this.element.setAttribute("aria-labelledby", heading.id);
    this.element.dataset.kind = sound.kind;
    this.$(".play").addEventListener("click", () => this.toggle());
    this.element.addEventListener("appear", () => this.measure());
    seen.observe(this.element);
  }

  get title() {
    return this.$("h3").textContent;
  }

  get files() {
    return this.sound.kind === STEMS ? this.sound.files : this.sound.files.slice(this.take, this.take + 1);
  }

  update(sound) {
    this.sound = sound;
    this.$("h3").textContent = titleOf(sound, this.acts.find(sound.parent));
    this.$(".meta").textContent = describe(sound, this.take);
    if (sound.state === this.state) return;
    this.element.dataset.state = this.state = sound.state;
    if (sound.state === "ready") this.furnish();
    else this.vacate();
    this.offer();
    this.$(".status").textContent = "";
    this.tick();
  }

  /** Show a placeholder while there is no audio. */
  vacate() {
    this.player?.release();
    this.player = null;
    this.$(".takes").hidden = true;
    this.$(".takes").querySelectorAll("label").forEach((label) => label.remove());
    this.$(".play").disabled = true;
    this.$(".play").ariaLabel = `Play ${this.title}`;
    this.lay([imagined(this.sound.id)]);
  }

  furnish() {
    this.$(".play").disabled = false;
    if (this.sound.files.length > 1 && this.sound.kind !== STEMS) this.offerTakes();
    this.load();
  }

  /** Show the available actions; finished ones are not offered again. */
  offer() {
    const { kind, state } = this.sound;
    const offers = [];
    if (state === "failed") offers.push(["Try again", () => this.acts.again(this.sound)]);
    if (state === "ready" && MUSIC.includes(kind)) {
      const family = SONGS.includes(kind) ? "song" : "instrumental";
      const stems = this.stems;
      if (!stems) offers.push(["Split into stems", () => this.split()]);
      else if (!["ready", "failed"].includes(stems.state)) offers.push(["Splitting…", null]);
      offers.push(["Cut down…", () => this.ask("cut")]);
      if (kind !== "adapt.auto_cut_down") offers.push(["Remix…", () => this.ask(family)]);
    }
    if (state === "ready") offers.push(["Rename…", () => this.ask("rename")]);
    if (state === "failed") offers.push(["Delete", () => this.drop()]);
    if (state === "ready") offers.push(["Delete…", () => this.ask("delete")]);
    const names = offers.map(([text]) => text).join("\n");
    if (names === this.offered) return;
    this.offered = names;
    const focused = [...this.$(".actions").children].indexOf(document.activeElement);
    this.$(".actions").querySelectorAll("button").forEach((button) => button.remove());
    for (const [text, act] of offers) this.button(text, act);
    if (focused >= 0) this.$(".actions").children[focused]?.focus();
  }

  /** The stems of the chosen take, if there are any, or will be. */
  get stems() {
    return this.acts.madeOf(this.sound).find((other) => other.kind === STEMS && other.take === this.take);
  }

  async drop() {
    await this.acts.remove(this.sound).catch((error) => { this.$(".status").textContent = error.message; });
  }

  ask(what) {
    const { sound, take, title } = this;
    this.acts.ask(what, { sound, take, title, seconds: this.files[0].seconds });
  }

  async split() {
    const { sound, take } = this;
    const key = (this.splits[take] ??= makeKey()); // a second click is the same request
    try {
      await this.acts.begin({ kind: STEMS, key, fields: {}, parent: sound.id, take });
    } catch (error) {
      this.$(".status").textContent = error.message;
    }
  }

  offerTakes() {
    const takes = this.$(".takes");
    takes.hidden = false;
    this.sound.files.forEach((_, n) => {
      const label = document.createElement("label");
      const radio = Object.assign(document.createElement("input"), {
        type: "radio", name: `take-${this.sound.id}`, value: n, checked: n === this.take,
      });
      radio.addEventListener("change", () => { this.take = n; this.load(); this.update(this.sound); this.offer(); });
      const text = document.createElement("span");
      text.textContent = `Take ${n + 1}`;
      label.append(radio, text);
      takes.append(label);
    });
  }

  /** Prepare the player for the chosen take. */
  load() {
    this.player?.release();
    const files = this.files;
    this.player = new Player(files.map((file) => file.url), {
      duration: Math.min(...files.map((file) => file.seconds)),
      loop: Boolean(this.sound.fields.loopable),
      changed: () => this.follow(),
    });
    this.lay(files.map(() => imagined(this.sound.id)), files); // until it is measured
    this.measured = false;
    const box = this.element.getBoundingClientRect();
    if (this.element.isConnected && box.top < innerHeight + 200 && box.bottom > -200) this.measure();
    this.follow();
  }

  lay(shapes, files = []) {
    const lanes = this.$(".lanes");
    lanes.replaceChildren();
    lanes.classList.toggle("many", files.length > 1);
    this.lanes = shapes.map((peaks, n) => {
      const element = document.getElementById("lane").content.firstElementChild.cloneNode(true);
      const lane = { element, peaks, canvas: element.querySelector("canvas"), solo: false, mute: false };
      if (files.length > 1) this.equip(lane, files[n]);
      else element.querySelector(".mix").remove();
      lanes.append(element);
      return lane;
    });
    if (files.length) lanes.append(this.makeSeek());
    this.links(files);
    this.draw();
  }

  /** Give a lane its name and its two switches. */
  equip(lane, file) {
    const name = capital(file.kind ?? "track");
    lane.element.querySelector(".name").textContent = name;
    for (const what of ["solo", "mute"]) {
      const button = lane.element.querySelector(`.${what}`);
      button.ariaLabel = `${capital(what)} ${name}`;
      button.title = capital(what);
      button.ariaPressed = "false";
      button.addEventListener("click", () => {
        lane[what] = !lane[what];
        button.ariaPressed = String(lane[what]);
        this.mix();
      });
    }
  }

  mix() {
    const solo = this.lanes.some((lane) => lane.solo);
    const heard = this.lanes.map((lane) => (solo ? lane.solo : !lane.mute));
    this.lanes.forEach((lane, n) => lane.element.classList.toggle("silent", !heard[n]));
    this.player.mix(heard.map(Number));
  }

  /** A range over the waveform: what a keyboard and a screen reader know how to use. */
  makeSeek() {
    this.seek = Object.assign(document.createElement("input"), {
      type: "range", className: "seek", min: 0, max: this.player.duration, step: 0.01, value: 0,
      ariaLabel: `Position in ${this.title}`,
    });
    this.seek.addEventListener("input", () => {
      this.player.seek(Number(this.seek.value));
      this.draw();
    });
    this.seek.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 5, ArrowUp: 5, ArrowLeft: -5, ArrowDown: -5 }[event.key];
      if (!step) return;
      event.preventDefault();
      this.player.seek(this.player.time + step);
      this.draw();
    });
    return this.seek;
  }

  links(files) {
    this.$(".actions").querySelectorAll("a").forEach((link) => link.remove());
    for (const file of files) {
      const link = document.createElement("a");
      link.href = file.url;
      link.download = fileName(this.acts.find(this.sound.parent)?.fields.prompt, this.title, file.kind);
      link.textContent = file.kind ? `${capital(file.kind)} FLAC` : "Download FLAC";
      this.$(".actions").append(link);
    }
  }

  /** Fetch and measure the audio, once it is near the screen. */
  async measure() {
    if (this.sound.state !== "ready" || this.measured) return;
    this.measured = true;
    const { take } = this;
    await Promise.all(this.files.map(async (file, n) => {
      const lane = this.lanes[n];
      try {
        lane.peaks = await peaksOf(file.url);
        this.draw();
      } catch {
        this.$(".status").textContent = "The audio of this sound cannot be read.";
      }
    }));
    this.element.dataset.measured = take;
  }

  async toggle() {
    if (this.player.playing) return this.player.pause();
    this.element.dataset.loading = "";
    try {
      await this.player.play();
      this.$(".status").textContent = "";
    } catch {
      this.$(".status").textContent = "The audio of this sound cannot be played.";
    }
    delete this.element.dataset.loading;
  }

  /** Keep up with the player. */
  follow() {
    const playing = Boolean(this.player?.playing);
    this.element.classList.toggle("playing", playing);
    this.$(".play").ariaLabel = `${playing ? "Pause" : "Play"} ${this.title}`;
    this.draw();
    cancelAnimationFrame(this.frame);
    if (playing) this.frame = requestAnimationFrame(() => this.follow());
  }

  draw() {
    const { player } = this;
    const done = player ? player.time / player.duration : this.progress();
    for (const lane of this.lanes) draw(lane.canvas, lane.peaks, done);
    if (!player) return;
    this.seek.value = player.time;
    const text = `${clock(player.time)} / ${clock(player.duration)}`;
    if (this.$(".time").textContent !== text) {
      this.$(".time").textContent = text;
      this.seek.setAttribute("aria-valuetext", `${clock(player.time)} of ${clock(player.duration)}`);
    }
  }

  /** Estimated progress by the usual duration of its kind; below 1. */
  progress() {
    const { state, started, kind } = this.sound;
    if (state === "fetching") return 0.97;
    if (state !== "making") return 0;
    return 0.95 * (1 - Math.exp((-1.6 * (this.acts.now() - started)) / (this.acts.usual(kind) ?? 20)));
  }

  tick() {
    const { state, started, kind, problem } = this.sound;
    if (state === "ready") return;
    const usual = this.acts.usual(kind);
    this.$(".time").textContent = state === "making" ? clock(Math.max(0, this.acts.now() - started)) : "";
    this.$(".status").textContent = {
      sending: "Sending",
      making: usual ? `Generating, usually ${clock(Math.max(1, usual))}` : "Generating",
      fetching: "Downloading",
      failed: problem,
    }[state];
    this.draw();
  }

  /** Add a button, after the others and before the links. */
  button(text, act) {
    const button = Object.assign(document.createElement("button"), { type: "button", className: "plain", textContent: text });
    if (act) button.addEventListener("click", act);
    else button.ariaDisabled = "true";
    this.$(".actions").prepend(...this.$(".actions").querySelectorAll("button"), button);
  }

  remove() {
    this.player?.release();
    seen.unobserve(this.element);
    const card = this.element.parentElement;
    this.element.remove();
    if (!card.children.length) card.remove();
  }
}
