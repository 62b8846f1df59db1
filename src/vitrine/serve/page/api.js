/* The server's answers, and its troubles as sentences. */

const LONGEST = 120; // seconds that one request may take, where it is not said otherwise
const TRIES = 5; // when the server is busy

export class ApiError extends Error {
  constructor(sentence, { status = 0, code = "", wait = 0 } = {}) {
    super(sentence);
    Object.assign(this, { status, code, wait });
  }
}

export function isAbort(error) {
  return error.name === "AbortError";
}

function address(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(given).toString();
  return query ? `${path}?${query}` : path;
}

async function sentence(response) {
  try {
    const said = await response.json();
    if (typeof said.error === "string") return [said.error, said.code || ""];
  } catch {
    // not JSON: the status has to do
  }
  if (response.status === 503) return ["The server is busy. Try again in a moment.", ""];
  return [`The server answered with status ${response.status}.`, ""];
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("cancelled", "AbortError"));
    });
  });
}

/* One request; its Response where that is 2xx.

   A busy server (503) is asked again after the time that it names, TRIES times in all; onbusy(seconds) is told. */
export async function ask(path, { parameters = {}, body = null, method = "GET", signal = null, onbusy = null, longest = LONGEST } = {}) {
  for (let tried = 1; ; tried += 1) {
    const response = await once(address(path, parameters), { method, body, signal, longest });
    if (response.ok) return response;
    const wait = Number(response.headers.get("Retry-After")) || 1;
    const [said, code] = await sentence(response);
    if (response.status !== 503 || tried === TRIES) throw new ApiError(said, { status: response.status, code, wait });
    if (onbusy) onbusy(wait);
    await pause(1000 * Math.min(10, wait), signal);
  }
}

async function once(url, { method, body, signal, longest }) {
  const late = AbortSignal.timeout(1000 * longest);
  const either = signal ? AbortSignal.any([signal, late]) : late;
  const headers = body ? { "Content-Type": "application/octet-stream" } : {};
  try {
    return await fetch(url, { method, body, headers, signal: either });
  } catch (error) {
    if (signal?.aborted) throw new DOMException("cancelled", "AbortError");
    if (late.aborted) throw new ApiError(`The server took longer than ${longest} seconds. Try again, or a smaller model.`);
    throw new ApiError("The server does not answer. Is vitrine serve still running?");
  }
}

export async function getJson(path, parameters = {}, signal = null) {
  return (await ask(path, { parameters, signal })).json();
}

/* A request about a picture: its bytes go along only where the server does not know it any more, or where the
   photograph itself is needed (whole), which the server does not keep. */
export async function askAbout(picture, model, path, { parameters = {}, whole = false, ...how } = {}) {
  const common = { method: "POST", ...how };
  const known = whole && !picture.sample ? null : picture.knownAs(model);
  const given = { model, name: known?.sample ? null : picture.name.slice(0, 200), ...parameters };
  if (known) {
    try {
      return await ask(path, { ...common, parameters: { ...given, ...known } });
    } catch (error) {
      if (error.code !== "gone") throw error;
      picture.held.delete(model);
    }
  }
  const body = await picture.bytes();
  return ask(path, { ...common, body, parameters: given });
}

/* The same, and its answer as JSON. */
export async function jsonAbout(picture, model, path, options = {}) {
  const answer = await (await askAbout(picture, model, path, options)).json();
  if (answer.picture) picture.held.set(model, answer.picture);
  return answer;
}

/* Server-sent events of a response, one after the other: {event, data}, data parsed from JSON. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value.replaceAll("\r\n", "\n");
    for (let end = rest.indexOf("\n\n"); end >= 0; end = rest.indexOf("\n\n")) {
      const lines = rest.slice(0, end).split("\n");
      rest = rest.slice(end + 2);
      const field = (name) => lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trim());
      const data = field("data").join("\n");
      if (data) yield { event: field("event")[0] || "message", data: JSON.parse(data) };
    }
  }
}
