// Answers on their way. What is put here is in the browser's storage first, is sent as soon as there is a network, and
// is forgotten when the server has confirmed it, not before. Every entry has the key of its submission, so that sending
// it twice stores it once.

import { forget, keep, kept, nameChanged, namesOf } from "./storage.js";
import { Refused, ask } from "./server.js";
import { say } from "./said.js";

const WAITING = "out:";
const REFUSED = "refused:";
const line = document.getElementById("status");
const memory = new Map(); // where the browser keeps nothing
let sending = null;
let delay = 1000;
let timer = 0;
let signIn = false;
let confirmed = false;

const waiting = () => [...namesOf(WAITING).map((key) => kept(WAITING + key)), ...memory.values()].filter(Boolean);

/** Items with an answer that is not confirmed yet. */
export const itemsWaiting = () => waiting().map((entry) => entry.item);

/** Send a form's pairs; `entry` has key, item, url, body. */
export function send(entry) {
  const safe = keep(WAITING + entry.key, { ...entry, at: Date.now() });
  if (!safe) memory.set(entry.key, { ...entry, at: Date.now() });
  confirmed = false;
  tell(safe ? "saving" : "full");
  flush();
}

/** Try to send everything now. */
export function flush() {
  sending ??= withLock(sendAll).finally(() => (sending = null));
  return sending;
}

async function withLock(work) {
  // one tab sends at a time where the browser has locks; without them the keys keep every answer single
  await (navigator.locks ? navigator.locks.request("tutelage-outbox", work) : work());
}

async function sendAll() {
  clearTimeout(timer);
  for (let entries = waiting(); entries.length; entries = waiting()) {
    const entry = entries.sort((a, b) => a.at - b.at)[0];
    try {
      await ask(entry.url, entry.body);
      [confirmed, signIn, delay] = [true, false, 1000];
    } catch (error) {
      signIn = error instanceof Refused && (error.status === 401 || error.status === 403);
      if (!(error instanceof Refused) || error.passing || signIn) return wait();
      keep(REFUSED + entry.key, { ...entry, why: error.message });
    }
    forget(WAITING + entry.key);
    memory.delete(entry.key);
  }
  tell();
}

/** Something that is not queued here was saved. */
export function confirm() {
  confirmed = true;
  tell();
}

function wait() {
  tell();
  timer = setTimeout(flush, delay);
  delay = Math.min(delay * 2, 30_000);
}

/** Say on the page how things stand: `saved` only where the server has confirmed everything. */
function tell(state) {
  if (!line) return;
  const count = waiting().length;
  const refused = namesOf(REFUSED).length;
  const now = state ?? (count ? (signIn ? "sign-in" : "kept") : refused ? "refused" : confirmed ? "saved" : "");
  if (line.dataset.state === now && !count && !refused) return;
  line.dataset.state = now;
  const words = { "sign-in": "signIn" }[now] ?? now;
  const text = now ? say(words, { count: refused && !count ? refused : count }) : "";
  line.replaceChildren(now === "sign-in" ? link("/sign-in", text) : now === "refused" ? link("/recent#refused", text) : text);
}

function link(href, text) {
  const made = document.createElement("a");
  made.href = href;
  made.textContent = text;
  return made;
}

/** Answers the server would not take: to show them, so that nothing that was written is lost. */
export const refusals = () => namesOf(REFUSED).map((key) => ({ ...kept(REFUSED + key), key }));

export function dismiss(key) {
  forget(REFUSED + key);
  tell();
}

addEventListener("online", () => {
  delay = 1000;
  flush();
});
addEventListener("storage", (event) => {
  if (nameChanged(event)?.startsWith(WAITING)) tell();
});
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && flush());
addEventListener("beforeunload", (event) => memory.size && event.preventDefault());
if (waiting().length) flush();
else tell();
