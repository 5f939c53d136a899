// Titles and descriptions.

export const STEMS = "adapt.separate_stems";
export const SONGS = ["create.new_song", "create.remix_song"];
export const MUSIC = [...SONGS, "create.new_instrumental", "create.remix_instrumental", "adapt.auto_cut_down"];

const KINDS = {
  "create.new_song": "Song",
  "create.new_instrumental": "Instrumental",
  "create.new_sample": "Sample",
  "create.new_fx": "Effect",
};

export const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** The title of a sound: its prompt, or how it was derived from its source. */
export function titleOf({ kind, fields, title, parent, take }, origin) {
  if (title) return title;
  if (!parent) return fields.prompt || "Untitled";
  const of = origin && origin.files.length > 1 ? ` of take ${take + 1}` : "";
  if (kind === "adapt.auto_cut_down") return `Cut to ${fields.target_duration} s${of}`;
  if (kind === STEMS) return `Stems${of}`;
  return fields.prompt ? `Remix${of}: ${fields.prompt}` : `Remix${of}`;
}

/** A description in one line. */
export function describe({ kind, files, fields, parent }, take) {
  const parts = parent ? [] : [KINDS[kind]];
  if (fields.loopable) parts.push("loop");
  if (files.length > 1 && kind !== STEMS) parts.push(`${files.length} takes`);
  if (files.length) parts.push(clock((files[take] ?? files[0]).seconds));
  return parts.join(" · ");
}

/** The name of a downloaded file. */
export function fileName(...parts) {
  return `${parts.filter(Boolean).join(" ").replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 80)}.flac`;
}
