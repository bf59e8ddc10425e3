// What is written so far: in the browser at once, on the server a moment later. The newer of the two is put back when
// the item is shown again.

import { forget, keep, kept } from "./storage.js";
import { ask } from "./server.js";
import { say } from "./said.js";

const PAUSE = 800;
const OURS = new Set(["csrf", "key", "seconds", "number"]);

/** The form's fields as pairs, without the page's own. */
export const fieldsOf = (form) => [...new FormData(form)].filter(([name]) => !OURS.has(name));

export class Draft {
  #form;
  #place;
  #name;
  #timer = 0;
  #seconds;
  #over = false;

  /** `seconds()` tells how long the person has worked; `place` is the item's address. */
  constructor(form, seconds, place = form.action) {
    this.#form = form;
    this.#place = place;
    this.#name = `draft:${form.dataset.item}`;
    this.#seconds = seconds;
    form.addEventListener("input", () => this.changed());
    form.addEventListener("change", () => this.changed());
  }

  /** The newest draft of a form: {fields, seconds, at}, or null. */
  static of(form) {
    const here = kept(`draft:${form.dataset.item}`);
    let there = null;
    try {
      there = JSON.parse(form.dataset.draft ?? "null");
    } catch {
      // not a draft of ours
    }
    return (there?.at ?? 0) > (here?.at ?? 0) ? there : here;
  }

  changed() {
    if (this.#over) return;
    const draft = { fields: fieldsOf(this.#form), seconds: this.#seconds(), at: Date.now() };
    keep(this.#name, draft);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#save(draft), PAUSE);
  }

  async #save(draft) {
    const state = this.#form.querySelector("[data-draft-state]");
    try {
      await ask(`${this.#place}/draft`, [["body", JSON.stringify(draft)]]);
      if (state && !this.#over) state.textContent = say("draft");
    } catch {
      if (state && !this.#over) state.textContent = say("draftKept");
    }
  }

  /** The item is answered or left for good. */
  end() {
    this.#over = true;
    clearTimeout(this.#timer);
    forget(this.#name);
  }

  /** The item leaves the screen for now; what was written stays. */
  pause() {
    this.#over = true;
    clearTimeout(this.#timer);
  }
}

/** Put a draft's fields back into a form. */
export function restore(form, draft) {
  const values = new Map();
  for (const [name, value] of draft.fields) values.set(name, [...(values.get(name) ?? []), value]);
  for (const field of form.elements) {
    if (!field.name || OURS.has(field.name)) continue;
    const found = values.get(field.name);
    if (field.type === "radio" || field.type === "checkbox") field.checked = found?.includes(field.value) ?? false;
    else if (found) field.value = found[0];
  }
}
