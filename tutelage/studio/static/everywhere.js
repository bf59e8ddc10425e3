// On every page of somebody signed in: moments in their own time, what is still on this device sent, what was refused
// shown.

import "./forget.js";
import { dismiss, refusals } from "./outbox.js";

for (const time of document.querySelectorAll("time[datetime]")) {
  const style = { dateStyle: "medium", timeStyle: "short" };
  time.textContent = new Date(time.dateTime).toLocaleString(document.documentElement.lang, style);
}

const list = document.getElementById("refused");
if (list) {
  for (const entry of refusals()) {
    const item = list.querySelector("template").content.firstElementChild.cloneNode(true);
    item.querySelector("[data-why]").textContent = entry.why;
    item.querySelector("pre").textContent = entry.body
      .filter(([name]) => !["csrf", "key", "seconds"].includes(name))
      .map(([name, value]) => (name === "text" ? value : `${name}: ${value}`))
      .join("\n");
    item.querySelector("button").addEventListener("click", () => {
      dismiss(entry.key);
      item.remove();
      list.hidden = !list.querySelector("ul li");
    });
    list.querySelector("ul").append(item);
    list.hidden = false;
  }
}
