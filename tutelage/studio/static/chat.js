// Live chat: what the rater says goes to the model, two replies grow, one is chosen and goes on. Nothing here works
// without a network, so nothing is queued: what was written stays in the form until the studio has answered.

import { confirm, send } from "./outbox.js";
import { Clock } from "./clock.js";
import { askIn } from "./dialogs.js";
import { Draft, restore } from "./draft.js";
import { onKeys, showKeys } from "./keys.js";
import { say } from "./said.js";
import { ask, Refused, stream } from "./server.js";

let form = document.getElementById("item");
let clock = new Clock();
let draft = null;
let busy = false;

function mount() {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (event.submitter?.dataset.end !== undefined) end();
    else go();
  });
  clock.stop();
  clock = new Clock();
  draft = null;
  const text = form.querySelector("textarea[name=text]");
  if (text) {
    const found = Draft.of(form);
    if (found) restore(form, found);
    draft = new Draft(form, () => clock.seconds, form.dataset.work);
  }
  form.addEventListener("change", choiceShown);
  scrollTo({ top: document.body.scrollHeight });
  (text ?? form).focus({ preventScroll: true });
  if (form.dataset.state === "reply") go();
}

function choiceShown() {
  const choice = form.querySelector("[name=preference]:checked");
  const answers = form.querySelectorAll("[data-replies] .answer");
  if (!choice || answers.length < 2) return;
  answers[0].classList.toggle("chosen", Number(choice.value) < 0);
  answers[1].classList.toggle("chosen", Number(choice.value) > 0);
  problem("");
}

function problem(text) {
  const line = form.querySelector(".problem");
  line.textContent = text;
  line.hidden = !text;
}

/** Put the form that came back in the place of this one. */
function swap(html) {
  draft?.end();
  const page = new DOMParser().parseFromString(html, "text/html");
  const fresh = document.adoptNode(page.getElementById("item"));
  form.replaceWith(fresh);
  form = fresh;
  mount();
}

const pairs = () => [...new FormData(form)].filter(([name]) => name !== "csrf" && name !== "seconds");

/** One thing at a time; what goes wrong is told, and the form stays as it is. */
async function once(work) {
  if (busy) return;
  busy = true;
  form.setAttribute("aria-busy", "true");
  problem("");
  try {
    await work();
  } catch (error) {
    form.querySelector("[data-replies]").querySelectorAll(".growing").forEach((one) => one.remove());
    problem(error instanceof Refused ? (error.status === 401 ? say("signIn", { count: 1 }) : error.message) : say("noNetwork"));
  } finally {
    busy = false;
    form.removeAttribute("aria-busy");
  }
}

function go() {
  if (form.dataset.state === "choose") return choose();
  const text = form.querySelector("textarea[name=text]");
  if (text && !text.value.trim()) return problem(say("write"));
  return once(speak);
}

async function speak() {
  const body = pairs();
  const said = form.querySelector("textarea[name=text]");
  const room = form.querySelector("[data-replies]");
  const pattern = form.querySelector("[data-growing]").content.firstElementChild;
  const growing = ["A", "B"].map((letter) => {
    const reply = pattern.cloneNode(true);
    reply.querySelector(".letter").textContent = letter;
    return reply;
  });
  room.replaceChildren(...growing);
  if (said) said.readOnly = true;
  try {
    for await (const line of stream(form.dataset.place + "/say", body)) {
      if (line.error) throw new Refused(line.error, 503);
      if (line.html) return swap(line.html);
      line.more.forEach((more, i) => growing[i].querySelector(".body").append(more));
      growing[0].scrollIntoView({ block: "nearest" });
    }
    throw new Refused(say("stopped"), 503);
  } finally {
    if (said) said.readOnly = false;
  }
}

function choose() {
  if (!form.querySelector("[name=preference]:checked")) return problem(say("choose"));
  return once(async () => after(await ask(form.dataset.place + "/choose", [...pairs(), ["seconds", String(clock.seconds)]])));
}

const end = () => once(async () => after(await ask(form.dataset.place + "/end", [])));

function after(reply) {
  confirm();
  if (reply.next) {
    draft?.end();
    location.assign(reply.next);
  } else swap(reply.html);
}

async function skip() {
  const answer = await askIn("skipping");
  if (!answer) return;
  const body = [["reason", answer.reason], ["note", answer.note]];
  await once(async () => {
    await ask(`${form.dataset.work}/skip`, body);
    draft?.end();
    location.reload();
  });
}

async function flag() {
  const answer = await askIn("flagging");
  if (!answer?.text.trim()) return;
  send({ key: `${form.elements.key.value}-flag`, item: "", url: `${form.dataset.work}/flag`, body: [["text", answer.text]] });
  form.querySelector("[data-draft-state]").textContent = say("flagged");
}

onKeys((key) => {
  const acts = { save: go, s: skip, f: flag, "?": showKeys, e: form.querySelector("[data-end]") && end };
  if (acts[key]) return acts[key](), true;
  const guideline = document.getElementById("guideline");
  if (key === "g" && guideline) return (guideline.open = !guideline.open), true;
  const choices = [...form.querySelectorAll(".scale input")];
  const choice = key === "=" ? choices[1] : /^[1-3]$/.test(key) && choices[Number(key) - 1];
  if (!choice) return false;
  choice.click();
  choice.focus({ preventScroll: true });
  return true;
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (!button || button.dataset.do === "save") return;
  event.preventDefault();
  ({ skip, flag, keys: showKeys })[button.dataset.do]();
});

setInterval(() => ask(`${form.dataset.work}/renew`, []).catch(() => {}), 240_000);
const guideline = document.getElementById("guideline");
if (guideline && matchMedia("(max-width: 71.99rem)").matches) guideline.open = false;
mount();
