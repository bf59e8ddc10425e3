// Pages of work that this browser keeps are for whoever is signed in here: others' go, and all go at sign-out.

const person = document.querySelector('meta[name="person"]')?.content;

export async function forgetPages(except) {
  if (!("caches" in window)) return;
  for (const name of await caches.keys()) if (name.startsWith("tutelage:") && name !== except) await caches.delete(name);
}

forgetPages(`tutelage:${person}`).catch(() => {});
document.querySelector('form[action="/sign-out"]')?.addEventListener("submit", () => forgetPages());
