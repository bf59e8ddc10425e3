// Shows a page of work as this browser kept it (offline.js) where the studio cannot be reached. It answers nothing else.

addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));
addEventListener("fetch", (event) => {
  const { request } = event;
  const { pathname } = new URL(request.url);
  if (request.method !== "GET") return;
  if (pathname.startsWith("/static/")) event.respondWith(kept(request).catch(() => fetch(request)));
  else if (request.mode === "navigate") event.respondWith(fetch(request).catch((error) => kept(pathname, error)));
});

async function kept(what, error) {
  const found = await caches.match(what);
  if (!found) throw error ?? new TypeError("not kept");
  return found;
}
