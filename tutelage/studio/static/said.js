// What scripts say, from the page's template: in the language of the page.

const words = document.getElementById("said")?.dataset ?? {};

/** The sentence of this name, its {gaps} filled in. */
export function say(name, gaps = {}) {
  return Object.entries(gaps).reduce((text, [gap, value]) => text.replace(`{${gap}}`, () => value), words[name] ?? name);
}
