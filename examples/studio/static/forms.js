// The two forms: for a new sound, and for an existing one.

const NUMBERS = new Set(["duration", "target_duration", "n_variations"]);

/** A key for one request; kept until the server has it, so that a retry is the same request. */
export function makeKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID is for secure pages only
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20)}`;
}

/** Reads a form, shows what is missing, and sends it; hidden fields are ignored. */
export class Form {
  constructor(element, send) {
    Object.assign(this, { element, send, key: makeKey() });
    this.button = element.querySelector(".primary");
    this.problem = element.querySelector(".problem");
    element.addEventListener("submit", (event) => { event.preventDefault(); this.submit(); });
    element.addEventListener("change", () => this.arrange());
    element.addEventListener("input", (event) => { this.blame(event.target, ""); this.complain(""); });
    element.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.submit();
    });
    this.arrange();
  }

  /** Show the fields that belong to the chosen kind. */
  arrange() {
    const kind = this.element.elements.kind?.value;
    for (const part of this.element.querySelectorAll("[data-for]")) {
      part.hidden = !part.dataset.for.split(" ").includes(kind);
    }
    for (const field of this.element.elements) field.disabled = Boolean(field.closest("[hidden]:not(.problem)"));
  }

  fill(values) {
    for (const [name, value] of Object.entries(values)) {
      if (value !== undefined && this.element.elements[name]) this.element.elements[name].value = value;
    }
    this.arrange();
    this.element.elements.prompt.focus();
  }

  read() {
    const fields = {};
    for (const field of this.element.elements) {
      if (!field.name || field.disabled || (field.type === "radio" && !field.checked)) continue;
      if (field.type === "checkbox") fields[field.name] = field.checked;
      else fields[field.name] = NUMBERS.has(field.name) ? field.valueAsNumber : field.value.trim();
    }
    return fields;
  }

  /** Return the error of a field, or ""; the texts are ours, because a browser uses its own language. */
  findFault(field) {
    if (!field.name || field.disabled) return "";
    if (field.type === "number" && !field.validity.valid) return `Enter a number from ${field.min} to ${field.max}.`;
    return field.required && !field.value.trim() ? "Enter a text." : "";
  }

  /** Show the error of a field beside it. */
  blame(field, text) {
    const id = `${field.id}-fault`;
    document.getElementById(id)?.remove();
    const hints = (field.getAttribute("aria-describedby") ?? "").split(" ").filter((hint) => hint && hint !== id);
    if (text) {
      field.setAttribute("aria-invalid", "true");
      const fault = Object.assign(document.createElement("p"), { id, className: "fault", role: "alert", textContent: text });
      (field.closest(".pair") ?? field.closest(".field")).after(fault);
      hints.push(id);
    } else {
      field.removeAttribute("aria-invalid");
    }
    if (hints.length) field.setAttribute("aria-describedby", hints.join(" "));
    else field.removeAttribute("aria-describedby");
  }

  /** Show all errors; returns the first invalid field. */
  check() {
    let first = null;
    for (const field of this.element.elements) {
      if (!field.name || field.type === "radio") continue;
      const fault = this.findFault(field);
      this.blame(field, fault);
      if (fault) first ??= field;
    }
    return first;
  }

  complain(text) {
    this.problem.textContent = text;
    this.problem.hidden = !text;
  }

  async submit() {
    if (this.button.ariaDisabled === "true") return;
    this.complain("");
    const wrong = this.check();
    if (wrong) {
      wrong.focus();
      return;
    }
    this.button.ariaDisabled = "true"; // it stays where the keyboard is
    try {
      await this.send(this.read(), this.key);
      this.key = makeKey();
    } catch (error) {
      this.complain(error.message);
    }
    this.button.ariaDisabled = "false";
  }
}

const dialog = document.getElementById("ask");
const TITLES = {
  cut: ["Cut down", "Cut"],
  song: ["Remix", "Remix"],
  instrumental: ["Remix", "Remix"],
  rename: ["Rename", "Rename"],
  delete: ["Delete this sound?", "Delete"],
};
const ROUTES = { cut: "adapt.auto_cut_down", song: "create.remix_song", instrumental: "create.remix_instrumental" };
let asked;

const answer = new Form(dialog.querySelector("form"), async (fields, key) => {
  const { what, sound, take, acts } = asked;
  if (what === "rename") await acts.rename(sound, fields.title);
  else if (what === "delete") await acts.remove(sound);
  else await acts.begin({ kind: ROUTES[what], key, fields, parent: sound.id, take });
  dialog.close();
});
document.getElementById("ask-cancel").addEventListener("click", () => dialog.close());

/** Open the dialog for a sound: `rename`, `delete`, `cut` one take, or a remix of a `song` or an `instrumental`. */
export function ask(what, { sound, take, title, seconds }, acts) {
  asked = { what, sound, take, acts };
  const fields = answer.element.elements;
  const [heading, verb] = TITLES[what];
  dialog.querySelector("h2").textContent = heading;
  document.getElementById("ask-about").textContent = sound.files.length > 1 ? `${title}, take ${take + 1}` : title;
  if (what in ROUTES === false) document.getElementById("ask-about").textContent = title;
  answer.button.textContent = verb;
  answer.key = makeKey();
  answer.complain("");
  for (const part of dialog.querySelectorAll("[data-ask]")) part.hidden = !part.dataset.ask.split(" ").includes(what);
  for (const field of fields) if (field.name) answer.blame(field, "");
  fields.title.value = title;
  fields.target_duration.value = Math.max(1, Math.round(seconds / 2));
  fields.prompt.value = sound.fields.prompt ?? "";
  fields.lyrics.value = sound.fields.lyrics ?? "";
  answer.arrange();
  dialog.showModal();
}
