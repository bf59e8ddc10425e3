// The page of work as this browser keeps it, with the item on the screen and all that are at hand: worker.js shows it
// where the studio cannot be reached. Only where a browser has caches: over https, or on this machine.

const person = document.querySelector('meta[name="person"]').content;
const NAME = `tutelage:${person}`;
const PASSED_ON = ["content-security-policy", "cross-origin-opener-policy", "referrer-policy", "x-frame-options"];
const shell = document.documentElement.cloneNode(true);
const fresh = new WeakMap(); // each form as the studio made it
let timer = 0;

/** Remember a form before scripts change it. */
export const remember = (form) => fresh.has(form) || fresh.set(form, form.cloneNode(true));

/** The submission of a form gets another key, also where it is kept. */
export function rekey(form, key) {
  for (const one of [form, fresh.get(form)]) one.elements.key.value = key;
}

/** Keep the page with these forms, the first on the screen. */
export function keepPage(forms) {
  if (!("caches" in window)) return;
  clearTimeout(timer);
  timer = setTimeout(() => put(forms.map((form) => fresh.get(form))).catch(() => {}), 100); // full: then it is not kept
}

async function put([first, ...others]) {
  const stock = document.createElement("template");
  stock.id = "stock";
  stock.content.append(...others.map((form) => form.cloneNode(true)));
  shell.querySelector("#stock")?.remove();
  shell.querySelector("#item").replaceWith(first.cloneNode(true));
  shell.querySelector("#desk").append(stock);
  const pages = await caches.open(NAME);
  const headers = new Headers({ "content-type": "text/html; charset=utf-8" });
  const script = (await pages.match(import.meta.url)) ?? (await fetch(import.meta.url));
  for (const name of PASSED_ON) headers.set(name, script.headers.get(name));
  await pages.put(location.pathname, new Response(`<!doctype html>${shell.outerHTML}`, { headers }));
}

/** The forms that a kept page came with, besides the one on the screen. */
export const stocked = () => [...(document.getElementById("stock")?.content.children ?? [])].map((form) => document.adoptNode(form));

/** There is nothing more to do here. */
export async function dropPage() {
  clearTimeout(timer);
  if ("caches" in window) await (await caches.open(NAME)).delete(location.pathname);
}

/** Have pages shown without a network from now on: the scripts are kept, those of older versions and others go. */
export async function prepare() {
  if (!("caches" in window) || !navigator.serviceWorker) return;
  await navigator.serviceWorker.register("/work/worker.js");
  const here = new URL(".", import.meta.url).href;
  const pages = await caches.open(NAME);
  for (const { url } of await pages.keys()) if (url.includes("/static/") && !url.startsWith(here)) await pages.delete(url);
  const known = new Set((await pages.keys()).map(({ url }) => url));
  const used = performance.getEntriesByType("resource").map(({ name }) => name);
  await pages.addAll(used.filter((url) => url.startsWith(here) && !known.has(url)));
}
