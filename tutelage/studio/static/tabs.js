// What other tabs of this browser have open, so that no two show the same item.

import { forget, keep, kept, nameChanged, namesOf } from "./storage.js";

const OPEN = "open:";
const FRESH = 180_000; // a tab that has not been heard of for so long is gone
const me = Math.random().toString(36).slice(2);
let mine = [];

/** Tell the other tabs which items this one has. */
export function have(items) {
  mine = items;
  keep(OPEN + me, { items, at: Date.now() });
}

/** Items that other tabs have. */
export function elsewhere() {
  const others = namesOf(OPEN).filter((tab) => tab !== me);
  return others.flatMap((tab) => {
    const there = kept(OPEN + tab);
    if (there && Date.now() - there.at < FRESH) return there.items;
    forget(OPEN + tab);
    return [];
  });
}

/** Call `heard(item)` when another tab has put an answer on its way. */
export function onAnswered(heard) {
  addEventListener("storage", (event) => {
    if (!nameChanged(event)?.startsWith("out:") || !event.newValue) return;
    heard(JSON.parse(event.newValue).item);
  });
}

setInterval(() => have(mine), 60_000);
addEventListener("pagehide", () => forget(OPEN + me));
addEventListener("pageshow", (event) => event.persisted && have(mine));
