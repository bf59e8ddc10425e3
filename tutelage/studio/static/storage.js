// What this browser keeps, apart for each person who signs in here. Entries have a key each, so that two tabs never
// write over each other's.

const person = document.querySelector('meta[name="person"]')?.content ?? "nobody";
const own = (name) => `tutelage:${person}:${name}`;

/** Keep a value under a name; false where the browser keeps nothing. */
export function keep(name, value) {
  try {
    localStorage.setItem(own(name), JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** The value kept under a name, or null. */
export function kept(name) {
  try {
    return JSON.parse(localStorage.getItem(own(name)));
  } catch {
    return null;
  }
}

export function forget(name) {
  try {
    localStorage.removeItem(own(name));
  } catch {
    // nothing is kept, so nothing is to be forgotten
  }
}

/** The names that begin so, without the beginning. */
export function namesOf(beginning) {
  try {
    const start = own(beginning);
    return Object.keys(localStorage).filter((name) => name.startsWith(start)).map((name) => name.slice(start.length));
  } catch {
    return [];
  }
}

/** The name of a change made in another tab, or null when it is not this person's. */
export function nameChanged(event) {
  const start = own("");
  return event.key?.startsWith(start) ? event.key.slice(start.length) : null;
}
