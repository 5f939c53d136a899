// What things are called.

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

/** What a piece is called: by its prompt, or by what it is of the piece it was made from. */
export function titleOf({ kind, wishes, title, parent, take }, origin) {
  if (title) return title;
  if (!parent) return wishes.prompt || "Untitled";
  const of = origin && origin.files.length > 1 ? ` of take ${take + 1}` : "";
  if (kind === "adapt.auto_cut_down") return `Cut to ${wishes.target_duration} s${of}`;
  if (kind === STEMS) return `Stems${of}`;
  return wishes.prompt ? `Remix${of}: ${wishes.prompt}` : `Remix${of}`;
}

/** What it is, in a line. */
export function describe({ kind, files, wishes, parent }, take) {
  const parts = parent ? [] : [KINDS[kind]];
  if (wishes.loopable) parts.push("loop");
  if (files.length > 1 && kind !== STEMS) parts.push(`${files.length} takes`);
  if (files.length) parts.push(clock((files[take] ?? files[0]).seconds));
  return parts.join(" · ");
}

/** What a file is called on somebody's disk. */
export function fileName(...parts) {
  return `${parts.filter(Boolean).join(" ").replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 80)}.flac`;
}
