// A page of work: an item on the screen, a few more at hand, answers on their way. Saving shows the next item at once;
// the status line says `saved` when the server has said so.

import { flush, itemsWaiting, send } from "./outbox.js";
import { Clock } from "./clock.js";
import { askIn } from "./dialogs.js";
import { Draft, fieldsOf, restore } from "./draft.js";
import { guide, own } from "./guideline.js";
import { onKeys, showKeys } from "./keys.js";
import { Ranking } from "./ranking.js";
import { say } from "./said.js";
import { ask, csrf, Refused } from "./server.js";
import { dropPage, keepPage, prepare, rekey, remember, stocked } from "./offline.js";
import "./forget.js";
import { keep, kept } from "./storage.js";
import { elsewhere, have, onAnswered } from "./tabs.js";

const FEW = 4; // items that are always fetched before they are needed
const MOST = 60; // items the studio lets a page name as its own
const TOGETHER = 5; // items of one request
const GAP = 600; // seconds without a network that the items at hand are to last
const PACE = 30; // seconds for an item, as long as nothing is known
const RENEW = 240_000;
const desk = document.getElementById("desk");
const { batch } = desk.dataset;
const correcting = "correcting" in desk.dataset;
const taken = correcting ? [] : [...elsewhere(), ...itemsWaiting()]; // a kept page may be older than the last answers
const ahead = stocked().filter((form) => !taken.includes(form.dataset.item));
const past = [];
let now = null;
let fetching = null;

function mount(form, notice) {
  guide(form);
  remember(form);
  const draft = Draft.of(form);
  if (draft) restore(form, draft);
  const clock = new Clock(draft?.seconds ?? Number(form.dataset.seconds ?? 0));
  now = { form, clock, draft: new Draft(form, () => clock.seconds) };
  if (form.querySelector("[data-ranking]")) now.ranking = new Ranking(form);
  form.addEventListener("submit", submitted);
  form.addEventListener("input", fresh);
  form.addEventListener("change", fresh);
  fresh();
  if (notice) told(notice);
  announce();
  if (!correcting) setTimeout(fetchAhead);
}

function unmount() {
  now.clock.stop();
  now.form.removeEventListener("submit", submitted);
  now.form.removeEventListener("input", fresh);
  now.form.removeEventListener("change", fresh);
}

/** The items that this page has. */
const mine = () => [now.form, ...ahead].map((form) => form.dataset.item);

function announce() {
  have(mine());
  if (!correcting) keepPage([now.form, ...ahead]);
}

/** Keep up what depends on the fields: the chosen side, the number of characters, no complaint. */
function fresh() {
  const { form } = now;
  problem("");
  const choice = form.querySelector("[name=preference]:checked");
  const answers = form.querySelectorAll(".answers.beside .answer");
  if (choice && answers.length === 2) {
    answers[0].classList.toggle("chosen", Number(choice.value) < 0);
    answers[1].classList.toggle("chosen", Number(choice.value) > 0);
  }
  const [text, count] = [form.querySelector("textarea[name=text]"), form.querySelector("[data-count]")];
  if (text && count) count.textContent = say("characters", { count: [...text.value].length });
}

function problem(text) {
  const line = now.form.querySelector(".problem");
  line.textContent = text;
  line.hidden = !text;
}

function told(text) {
  const line = document.createElement("p");
  line.className = "notice";
  line.setAttribute("role", "status");
  line.textContent = text;
  now.form.prepend(line);
}

/** What is missing in the answer, in words; empty when it is whole. */
function missing() {
  const { form, ranking } = now;
  if (ranking) return ranking.complete ? "" : say("placeAll");
  const text = form.querySelector("textarea[name=text]");
  if (!text) return form.querySelector("[name=preference]:checked, [name=score]:checked") ? "" : say("choose");
  if (!text.value.trim()) return say("write");
  if (text.dataset.original === text.value) return say("unchanged");
  return "original" in text.dataset && text.value.includes("[name masked]") ? say("masked") : "";
}

function submitted(event) {
  event.preventDefault();
  save();
}

function save() {
  const complaint = missing();
  if (complaint) return problem(complaint);
  const { form, clock } = now;
  delete form.dataset.skipped;
  form.dataset.seconds = clock.seconds;
  const [key, seconds] = [form.elements.key.value, String(clock.seconds)];
  keep(`pace:${form.dataset.kind}`, 0.7 * pace() + 0.3 * clock.seconds);
  leave({ key, url: form.action, body: [...fieldsOf(form), ["key", key], ["seconds", seconds]] });
}

/** Put something about this item on its way, and show the next. */
function leave(entry) {
  const { form } = now;
  now.draft.end();
  delete form.dataset.draft;
  past.push(form);
  send({ ...entry, item: form.dataset.item });
  advance();
}

async function advance(notice) {
  unmount();
  const leaving = now.form;
  if (correcting) {
    leaving.inert = true;
    await settled(leaving.dataset.item);
    return location.assign("/recent");
  }
  if (!ahead.length) {
    leaving.inert = true;
    await more(leaving);
  }
  show(ahead.shift(), leaving, notice);
}

/** Wait until nothing of the item is on its way. */
async function settled(item) {
  for (;;) {
    await flush();
    if (!itemsWaiting().includes(item)) return;
    await new Promise((done) => setTimeout(done, 2000));
  }
}

/** Wait until there is a next item. Where there is none at all, the server's page says why. */
async function more(leaving) {
  for (;;) {
    await fetchAhead();
    if (ahead.length) return;
    if (fetchAhead.over) {
      await flush();
      have([]);
      await dropPage();
      location.assign(`/work/${batch}`);
      await new Promise(() => {});
    }
    const line = leaving.querySelector(".problem");
    [line.textContent, line.hidden] = [say("nextLater"), false];
    await new Promise((done) => {
      addEventListener("online", done, { once: true });
      setTimeout(done, 5000);
    });
  }
}

function show(form, instead, notice) {
  form.inert = false;
  instead.replaceWith(form);
  form.classList.add("arriving");
  mount(form, notice);
  scrollTo(0, 0);
  (form.querySelector("textarea[name=text]") ?? form).focus({ preventScroll: true });
}

/** Seconds that an item takes this rater. */
const pace = () => kept(`pace:${now.form.dataset.kind}`) ?? PACE;

/** How many more items are wanted at hand; none while fewer are missing than one request brings. */
function missingItems() {
  const missing = Math.min(MOST - 1, Math.max(FEW, Math.ceil(GAP / Math.max(pace(), 1)))) - ahead.length;
  return missing >= TOGETHER || ahead.length < FEW ? missing : 0;
}

/** Fill up what is at hand, one request at a time. `fetchAhead.over` tells that there is nothing more. */
function fetchAhead() {
  fetching ??= fill().finally(() => (fetching = null));
  return fetching;
}

async function fill() {
  for (let want = missingItems(); want > 0; want = missingItems()) {
    const besides = [...new Set([...mine(), ...itemsWaiting(), ...elsewhere()])].slice(0, MOST);
    let found;
    try {
      found = await ask(`/work/${batch}/ahead?want=${want}&hand=${1 + ahead.length}&guideline=${own}&besides=${besides.join(",")}`);
    } catch (error) {
      fetchAhead.over = error instanceof Refused && !error.passing;
      return;
    }
    for (const html of found.items) {
      const form = document.adoptNode(new DOMParser().parseFromString(html, "text/html").getElementById("item"));
      remember(form);
      ahead.push(form);
    }
    fetchAhead.over = Boolean(found.nothing) && !found.items.length;
    announce();
    if (found.nothing || found.items.length < Math.min(want, TOGETHER)) return;
  }
}

function undo() {
  const form = past.pop();
  if (!form) return problem(say("nothingToUndo"));
  const leaving = now.form;
  now.draft.pause();
  unmount();
  ahead.unshift(leaving);
  const [, key, times] = form.elements.key.value.match(/^(.*?)(?:~(\d+))?$/);
  if (!("skipped" in form.dataset)) send({ key: `${form.elements.key.value}-undo`, item: "", url: `${form.action}/undo`, body: [] });
  rekey(form, `${key}~${Number(times ?? 1) + 1}`);
  form.querySelector(".notice")?.remove();
  form.dataset.standing = "0";
  show(form, leaving, say("undone"));
  now.draft.changed();
}

async function skip() {
  if (now.form.dataset.standing !== "0") return problem(say("answered"));
  const answer = await askIn("skipping");
  if (!answer) return;
  now.form.dataset.skipped = "";
  const body = [["reason", answer.reason], ["note", answer.note]];
  leave({ key: `${now.form.elements.key.value}-skip`, url: `${now.form.action}/skip`, body });
}

async function flag() {
  const answer = await askIn("flagging");
  if (!answer?.text.trim()) return;
  const { form } = now;
  const key = `${form.elements.key.value}-flag-${Date.now()}`;
  send({ key, item: "", url: `${form.action}/flag`, body: [["text", answer.text]] });
  problem("");
  form.querySelector("[data-draft-state]").textContent = say("flagged");
}

function reset() {
  const text = now.form.querySelector("textarea[name=text]");
  text.value = text.dataset.original;
  text.dispatchEvent(new Event("input", { bubbles: true }));
  text.focus();
}

function toggle(element) {
  if (!element) return false;
  element.open = !element.open;
  if (element.open) (element.querySelector("input") ?? element.querySelector("summary")).focus();
  return true;
}

const ACTIONS = { save, skip, flag, undo, reset, keys: showKeys };
const KEYS = { save, s: skip, f: flag, u: undo, "?": showKeys };

onKeys((key) => {
  if (now.form.inert) return false;
  if (now.ranking?.key(key)) return true;
  if (KEYS[key]) return KEYS[key](), true;
  if (key === "g") return toggle(document.getElementById("guideline"));
  if (key === "w") return toggle(now.form.querySelector("[data-flags]"));
  const choices = [...now.form.querySelectorAll(".scale input")];
  const choice = key === "=" ? choices.find((input) => input.value === "0") : choices[Number(key) - 1];
  if (!choice || !/^[1-9=]$/.test(key)) return false;
  choice.click();
  choice.focus({ preventScroll: true });
  return true;
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (!button || button.dataset.do === "save") return;
  event.preventDefault();
  ACTIONS[button.dataset.do]();
});

onAnswered((item) => {
  if (item !== now.form.dataset.item || correcting || now.form.inert) return;
  now.draft.end();
  advance(say("elsewhere"));
});

let lastSign = Date.now();
for (const sign of ["keydown", "pointerdown", "input"]) addEventListener(sign, () => (lastSign = Date.now()), { passive: true });
setInterval(() => Date.now() - lastSign < 2 * RENEW && renew(), RENEW);
const renew = () => ask(`/work/${batch}/renew`, [["items", mine().join(",")]]).catch(() => {});
addEventListener("online", renew);
addEventListener("pageshow", (event) => event.persisted && renew());
addEventListener("pagehide", () => {
  const untouched = ahead.map((form) => form.dataset.item).filter((item) => !kept(`draft:${item}`));
  if (!correcting && untouched.length) navigator.sendBeacon(`/work/${batch}/give-back`, new URLSearchParams({ csrf: csrf(), items: untouched.join(",") }));
});

const guideline = document.getElementById("guideline");
if (guideline && matchMedia("(max-width: 71.99rem)").matches) guideline.open = false;
ahead.forEach(remember);
mount(document.getElementById("item"));
if (taken.includes(now.form.dataset.item)) advance();
else (now.form.querySelector("textarea[name=text]") ?? now.form).focus({ preventScroll: true });
if (!correcting) prepare().catch(() => {}); // without it a reload needs the network; nothing else does
