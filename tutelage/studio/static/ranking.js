// A ranking of 2 to 9 answers, ties allowed: tiers of places, best first. Typed (3 = 1 2), dragged, or moved by
// Alt+arrows. The selects beside the answers hold the result; without scripts they are the ranking.

import { say } from "./said.js";

/** The tiers that the ranks of places (null: not placed) mean. */
export function tiersOf(ranks) {
  const different = [...new Set(ranks.filter((rank) => rank !== null))].sort((a, b) => a - b);
  return different.map((rank) => ranks.flatMap((r, place) => (r === rank ? [place] : [])));
}

/** The rank of each of `count` places, 1 best; null where it is in no tier. */
export function ranksOf(tiers, count) {
  const ranks = new Array(count).fill(null);
  tiers.forEach((tier, i) => tier.forEach((place) => (ranks[place] = i + 1)));
  return ranks;
}

const without = (tiers, place) => tiers.map((tier) => tier.filter((p) => p !== place)).filter((tier) => tier.length);

/** Behind all others; with `tie`, beside the last. */
export function append(tiers, place, tie = false) {
  const rest = without(tiers, place);
  if (tie && rest.length) return [...rest.slice(0, -1), [...rest.at(-1), place]];
  return [...rest, [place]];
}

/** One step up (-1) or down (1): out of a tie, or into one with the neighbour. */
export function step(tiers, place, by) {
  const at = tiers.findIndex((tier) => tier.includes(place));
  if (at < 0) return append(tiers, place);
  if (tiers[at].length > 1) {
    const rest = tiers.map((tier, i) => (i === at ? tier.filter((p) => p !== place) : tier));
    rest.splice(by < 0 ? at : at + 1, 0, [place]);
    return rest;
  }
  const beside = at + by;
  if (beside < 0 || beside >= tiers.length) return tiers;
  return tiers.map((tier, i) => (i === beside ? [...tier, place] : tier)).filter((_, i) => i !== at);
}

/** Into tier `at`, or before it, or behind it. */
export function drop(tiers, place, at, how) {
  const target = tiers[at];
  if (target.length === 1 && target[0] === place) return tiers;
  const marked = tiers.map((tier) => tier.filter((p) => p !== place));
  if (how === "join") marked[at] = [...marked[at], place];
  else marked.splice(how === "before" ? at : at + 1, 0, [place]);
  return marked.filter((tier) => tier.length);
}

export class Ranking {
  #form;
  #answers;
  #selects;
  #tiers;
  #tie = false;

  constructor(form) {
    this.#form = form;
    this.#answers = [...form.querySelectorAll(".answer")];
    this.#selects = this.#answers.map((answer) => answer.querySelector("select"));
    form.querySelector("[data-ranking]").hidden = false;
    for (const label of form.querySelectorAll("[data-without-script]")) label.hidden = true;
    this.read();
    form.querySelector(".tray").addEventListener("keydown", (event) => this.#arrow(event));
    form.querySelector(".tray").addEventListener("pointerdown", (event) => this.#grab(event));
  }

  /** Take the ranks from the selects, as after putting a draft back. */
  read() {
    this.#tiers = tiersOf(this.#selects.map((select) => (select.value ? Number(select.value) : null)));
    this.#draw();
  }

  get complete() {
    return this.#selects.every((select) => select.value);
  }

  /** A key typed anywhere: whether it meant the ranking. */
  key(key) {
    if (key === "=") this.#tie = this.#tiers.length > 0;
    else if (key === "Backspace") this.#set(this.#tiers.length ? without(this.#tiers, this.#tiers.at(-1).at(-1)) : []);
    else if (/^[1-9]$/.test(key) && Number(key) <= this.#answers.length) {
      this.#set(append(this.#tiers, Number(key) - 1, this.#tie), Number(key) - 1);
      this.#tie = false;
    } else return false;
    if (key === "=") this.#draw();
    return true;
  }

  #set(tiers, place) {
    this.#tiers = tiers;
    const ranks = ranksOf(tiers, this.#answers.length);
    this.#selects.forEach((select, i) => (select.value = ranks[i] ?? ""));
    this.#draw();
    if (place !== undefined) this.#announce(place, ranks[place]);
    this.#form.dispatchEvent(new Event("change", { bubbles: true }));
  }

  #announce(place, rank) {
    const letter = this.#answers[place].dataset.letter;
    const tied = rank !== null && this.#tiers[rank - 1].length > 1 ? `, ${say("tied")}` : "";
    const text = rank === null ? say("unplaced", { letter }) : say("placed", { letter, place: rank }) + tied;
    this.#form.querySelector("[data-announce]").textContent = text;
  }

  #draw() {
    const held = document.activeElement?.dataset?.chip;
    const ranks = ranksOf(this.#tiers, this.#answers.length);
    const items = this.#tiers.map((tier, at) => {
      const item = document.createElement("li");
      item.className = "tier";
      item.dataset.at = at;
      item.dataset.rank = at + 1;
      tier.forEach((place, i) => item.append(...(i ? [mark("=")] : []), this.#chip(place)));
      if (this.#tie && at === this.#tiers.length - 1) item.append(mark("= …"));
      return item;
    });
    this.#form.querySelector(".tiers").replaceChildren(...items);
    const left = ranks.flatMap((rank, place) => (rank === null ? [this.#chip(place)] : []));
    this.#form.querySelector(".unplaced").replaceChildren(...left);
    this.#answers.forEach((answer, place) => {
      answer.classList.toggle("chosen", ranks[place] !== null);
      answer.querySelector("[data-badge]").textContent = ranks[place] === null ? "" : `#${ranks[place]}`;
    });
    if (held !== undefined) this.#form.querySelector(`[data-chip="${held}"]`)?.focus();
  }

  #chip(place) {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.className = "chip";
    chip.dataset.chip = place;
    chip.textContent = this.#answers[place].dataset.letter;
    chip.addEventListener("click", (event) => {
      if (event.detail === 0) this.#toggle(place); // Enter or Space; the mouse is heard by the drag
    });
    return chip;
  }

  #toggle(place) {
    const placed = this.#tiers.some((tier) => tier.includes(place));
    this.#set(placed ? without(this.#tiers, place) : append(this.#tiers, place), place);
  }

  #arrow(event) {
    const place = event.target.dataset?.chip;
    const by = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1 }[event.key];
    if (place === undefined || !by || !event.altKey) return;
    event.preventDefault();
    this.#set(step(this.#tiers, Number(place), by), Number(place));
  }

  #grab(event) {
    const chip = event.target.closest(".chip");
    if (!chip || event.button) return;
    const place = Number(chip.dataset.chip);
    const start = { x: event.clientX, y: event.clientY };
    let moved = false;
    const move = (e) => {
      moved ||= Math.hypot(e.clientX - start.x, e.clientY - start.y) > 6;
      if (!moved) return;
      chip.classList.add("dragging");
      chip.style.translate = `${e.clientX - start.x}px ${e.clientY - start.y}px`;
      this.#mark(this.#under(e));
    };
    const end = (e) => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", end);
      removeEventListener("pointercancel", end);
      this.#mark(null);
      const over = e.type === "pointerup" ? this.#under(e) : null;
      chip.classList.remove("dragging");
      chip.style.translate = "";
      if (!moved && e.type === "pointerup") this.#toggle(place);
      else if (over === "out") this.#set(without(this.#tiers, place), place);
      else if (over === "end") this.#set(append(this.#tiers, place), place);
      else if (over) this.#set(drop(this.#tiers, place, over.at, over.how), place);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", end);
    addEventListener("pointercancel", end);
  }

  /** What a dragged chip would do here: a tier and how, `out` of the ranking, to its `end`, or nothing. */
  #under(event) {
    const element = document.elementFromPoint(event.clientX, event.clientY);
    if (element?.closest(".unplaced")) return "out";
    const tier = element?.closest(".tier");
    if (!tier) return element?.closest(".tray") ? "end" : null;
    const box = tier.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    return { at: Number(tier.dataset.at), how: share < 0.25 ? "before" : share > 0.75 ? "after" : "join" };
  }

  #mark(over) {
    for (const tier of this.#form.querySelectorAll(".tier")) {
      tier.classList.remove("before", "after", "join");
      if (over?.how && Number(tier.dataset.at) === over.at) tier.classList.add(over.how);
    }
  }
}

function mark(text) {
  const made = document.createElement("span");
  made.className = "equals";
  made.textContent = text;
  return made;
}
