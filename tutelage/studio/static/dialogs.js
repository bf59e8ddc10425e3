// The questions asked before an item is skipped or flagged.

import { keysIn } from "./keys.js";

/** Open a dialog; resolves with its fields when it was confirmed, with null when not. */
export function askIn(id) {
  const dialog = document.getElementById(id);
  const form = dialog.querySelector("form");
  form.reset();
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((done) => {
    const closed = () => done(dialog.returnValue ? Object.fromEntries(new FormData(form)) : null);
    dialog.addEventListener("close", closed, { once: true });
  });
}

for (const id of ["skipping", "flagging"]) {
  const dialog = document.getElementById(id);
  if (dialog) keysIn(dialog);
}
