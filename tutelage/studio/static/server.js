// Requests to the studio. Three ways they end: an answer, a refusal (Refused), no connection (any other error).

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
  /** Whether trying again later may help. */
  get passing() {
    return this.status >= 500 || this.status === 429 || this.status === 408;
  }
}

export const csrf = () => document.querySelector('meta[name="csrf-token"]').content;

/** Ask for JSON; with `body` (pairs of a form), post it. */
export const ask = async (url, body) => (await answered(url, body)).json();

/** Post a form and hear line after line of JSON. */
export async function* stream(url, body) {
  const reader = (await answered(url, body)).body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (text + value).split("\n");
    text = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

async function answered(url, body) {
  const reply = await fetch(url, {
    method: body ? "POST" : "GET",
    body: body && new URLSearchParams(body),
    headers: { Accept: "application/json", "X-CSRF-Token": csrf() },
    redirect: "manual",
  });
  if (reply.ok) return reply;
  if (reply.type === "opaqueredirect") throw new Refused("", 401);
  let message = "";
  try {
    message = (await reply.json()).error ?? "";
  } catch {
    // a refusal without words
  }
  throw new Refused(message || String(reply.status), reply.status);
}
