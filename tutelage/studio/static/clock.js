// Seconds of work on an item. Time counts while the page is in view, up to 30 s after the last sign of life.

const IDLE = 30_000;
const SIGNS = ["keydown", "pointerdown", "pointermove", "wheel", "scroll", "input", "touchstart"];

export class Clock {
  #worked;
  #last;
  #now;

  /** `seconds` were worked before. */
  constructor(seconds = 0, now = () => performance.now()) {
    this.#worked = seconds * 1000;
    this.#now = now;
    this.#last = document.visibilityState === "visible" ? now() : null;
    this.alive = this.alive.bind(this);
    this.turned = this.turned.bind(this);
    for (const sign of SIGNS) addEventListener(sign, this.alive, { passive: true, capture: true });
    document.addEventListener("visibilitychange", this.turned);
  }

  /** Somebody moved: the time since the last sign counts, but never more than the idle limit. */
  alive() {
    if (this.#last === null) return;
    const now = this.#now();
    this.#worked += Math.min(now - this.#last, IDLE);
    this.#last = now;
  }

  /** The page came into view, or left it. */
  turned() {
    this.alive();
    this.#last = document.visibilityState === "visible" ? this.#now() : null;
  }

  /** Seconds so far, to a tenth. */
  get seconds() {
    const going = this.#last === null ? 0 : Math.min(this.#now() - this.#last, IDLE);
    return Math.round((this.#worked + going) / 100) / 10;
  }

  stop() {
    for (const sign of SIGNS) removeEventListener(sign, this.alive, { capture: true });
    document.removeEventListener("visibilitychange", this.turned);
  }
}
