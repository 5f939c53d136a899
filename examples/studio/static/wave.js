// The shape of a sound: decoded once, reduced to a few numbers, remembered by the browser, drawn as bars.

const COUNT = 400;
const decoder = new OfflineAudioContext(2, 1, 44100); // decodes without asking for permission to play

/** Fetch a file and decode it. */
export async function decode(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  return decoder.decodeAudioData(await response.arrayBuffer());
}

/** The loudest sample of each of COUNT slices, from 0 to 1. */
function measure(buffer) {
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, n) => buffer.getChannelData(n));
  const size = buffer.length / COUNT;
  return Array.from({ length: COUNT }, (_, slice) => {
    let peak = 0;
    const end = Math.floor((slice + 1) * size);
    for (const samples of channels) {
      for (let at = Math.floor(slice * size); at < end; at += 3) peak = Math.max(peak, Math.abs(samples[at]));
    }
    return Math.min(1, peak);
  });
}

/** Cache of measured peaks, because files never change; without storage they are measured again. */
const memory = {
  recall(url) {
    try {
      const kept = localStorage.getItem(`peaks ${url}`);
      return kept && Array.from(kept, (letter) => (letter.charCodeAt(0) - 40) / 80);
    } catch {
      return null;
    }
  },
  keep(url, peaks) {
    try {
      localStorage.setItem(`peaks ${url}`, peaks.map((peak) => String.fromCharCode(40 + Math.round(peak * 80))).join(""));
    } catch { /* full, or not allowed */ }
  },
};

let turn = Promise.resolve(); // one file at a time: a long song takes tens of megabytes while it is decoded

/** The peaks of a file. */
export function peaksOf(url) {
  const kept = memory.recall(url);
  if (kept) return Promise.resolve(kept);
  const mine = turn.then(async () => {
    const peaks = measure(await decode(url));
    memory.keep(url, peaks);
    return peaks;
  });
  turn = mine.catch(() => {});
  return mine;
}

/** Placeholder peaks, always the same for a number. */
export function imagined(seed) {
  return Array.from({ length: COUNT }, (_, n) =>
    0.12 + 0.2 * Math.abs(Math.sin(n * 0.05 + seed) + 0.6 * Math.sin(n * 0.17 + seed * 3)));
}

/** Draw bars; those before `done` (0 to 1) have been played. */
export function draw(canvas, peaks, done) {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width) return;
  const scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const style = getComputedStyle(canvas);
  const [rest, played] = [style.getPropertyValue("--wave"), style.getPropertyValue("--accent")];
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const bars = Math.floor(width / 4);
  const loudest = Math.max(0.25, ...peaks);
  for (let bar = 0; bar < bars; bar++) {
    const from = Math.floor((bar / bars) * peaks.length);
    const to = Math.max(from + 1, Math.floor(((bar + 1) / bars) * peaks.length));
    const tall = Math.max(2, (Math.max(...peaks.slice(from, to)) / loudest) * height);
    pen.fillStyle = (bar + 0.5) / bars <= done ? played : rest;
    pen.beginPath();
    pen.roundRect(bar * 4, (height - tall) / 2, 2.5, tall, 1.25);
    pen.fill();
  }
}
