// One key for each thing a rater does hundreds of times a day. They can be switched off (some people speak to their
// computer, and words are keys then).

import { keep, kept } from "./storage.js";

const OFF = "keys-off";
const dialog = document.getElementById("keys");
const box = dialog.querySelector("[data-keys-on]");

box.checked = !kept(OFF);
box.addEventListener("change", () => keep(OFF, !box.checked));

export const showKeys = () => dialog.showModal();

const writes = (element) => element.matches?.("textarea, select, input:not([type=radio]):not([type=checkbox])") ?? false;
const acts = (element) => element.matches?.("button, a, summary") ?? false;

/** Hear keys outside of dialogs. `act(key)` returns whether the key meant something. Ctrl+Enter always is `save`. */
export function onKeys(act) {
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.isComposing || event.defaultPrevented) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      if (act("save")) event.preventDefault();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && writes(event.target)) return event.target.blur();
    if (writes(event.target) || (event.key === "Enter" && acts(event.target))) return;
    if (!box.checked && event.key !== "Enter" && event.key !== "?") return;
    if (act(event.key === "Enter" ? "save" : event.key)) event.preventDefault();
  });
}

/** Number keys choose among a dialog's reasons; Ctrl+Enter confirms. */
export function keysIn(dialog) {
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) dialog.querySelector("button.primary").click();
    if (writes(event.target) || !/^[1-9]$/.test(event.key)) return;
    const choice = dialog.querySelectorAll("input[type=radio]")[Number(event.key) - 1];
    if (choice) choice.checked = true;
    choice?.focus();
  });
}
