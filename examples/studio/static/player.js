// Plays one file, or several in step to the sample, each as loud as the mix says. One player sounds at a time.

import { decode } from "./wave.js";

let context, analyser, master, current;
let volume = 1;

function open() {
  if (!context) {
    context = new AudioContext();
    analyser = new AnalyserNode(context, { fftSize: 2048 });
    master = new GainNode(context, { gain: volume });
    master.connect(analyser).connect(context.destination);
  }
  return context;
}

/** Set how loud everything is, from 0 to 1. */
export function setVolume(value) {
  volume = value ** 2; // as ears have it
  master?.gain.setTargetAtTime(volume, context.currentTime, 0.015);
}

/** How loud it is now: the effective value, from 0 to 1. */
export function level() {
  if (!analyser) return 0;
  const samples = new Float32Array(analyser.fftSize);
  analyser.getFloatTimeDomainData(samples);
  return Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
}

export class Player {
  /** `changed` is called when it starts, stops or comes to its end. */
  constructor(urls, { duration, loop = false, changed = () => {} }) {
    Object.assign(this, { urls, duration, loop, changed });
    this.playing = false;
    this.gains = urls.map(() => 1);
    this.tracks = [];
    this.offset = 0;
  }

  get time() {
    if (!this.playing) return this.offset;
    const time = Math.max(this.offset, context.currentTime - this.begun);
    return this.loop ? time % this.duration : Math.min(time, this.duration);
  }

  async play() {
    if (current && current !== this) current.release();
    current = this;
    open().resume();
    this.buffers ??= Promise.all(this.urls.map(decode));
    const buffers = await this.buffers.catch((error) => { this.buffers = undefined; throw error; });
    if (current !== this || this.playing) return; // another was chosen meanwhile
    if (this.offset >= this.duration - 0.01) this.offset = 0;
    const at = context.currentTime + 0.05; // all of them at this very moment
    this.begun = at - this.offset;
    this.tracks = buffers.map((buffer, n) => {
      const gain = new GainNode(context, { gain: this.gains[n] });
      const source = new AudioBufferSourceNode(context, { buffer, loop: this.loop });
      source.connect(gain).connect(master);
      source.start(at, this.offset);
      return { source, gain };
    });
    this.tracks[0].source.onended = () => this.finish();
    this.playing = true;
    this.changed();
  }

  pause() {
    this.offset = this.time;
    this.stop();
  }

  /** Stop for another player; a long song takes much memory while it is decoded, so that goes too. */
  release() {
    if (this.playing) this.pause();
    this.buffers = undefined;
  }

  finish() {
    this.offset = 0;
    this.stop();
  }

  stop() {
    this.playing = false;
    for (const { source } of this.tracks) {
      source.onended = null;
      source.stop();
    }
    this.tracks = [];
    this.changed();
  }

  async seek(time) {
    const playing = this.playing;
    if (playing) this.stop();
    this.offset = Math.min(Math.max(0, time), this.duration);
    if (playing) await this.play();
  }

  /** Set how loud each file is; at once, but without a click. */
  mix(gains) {
    this.gains = gains;
    this.tracks.forEach(({ gain }, n) => gain.gain.setTargetAtTime(gains[n], context.currentTime, 0.015));
  }
}
