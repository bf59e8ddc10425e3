// Shows how far a sampling run is, every two seconds as long as one is going on; at its end the whole page anew.

const watch = () => setTimeout(look, 2000);
let jobs = document.getElementById("jobs");

async function look() {
  try {
    const reply = await fetch(location.pathname);
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    const found = page.getElementById("jobs");
    if (!found) return;
    if (!("going" in found.dataset)) return location.assign(location.pathname);
    jobs.replaceWith(document.adoptNode(found));
    jobs = found;
  } catch {
    // no network now
  }
  watch();
}

if ("going" in jobs.dataset) watch();
