/* Requests to the server; its errors become sentences. */

const TIMEOUT = 120; // seconds that one request may take by default
const MAX_TRIES = 5; // when the server is busy

export class ApiError extends Error {
  constructor(message, { status = 0, code = "" } = {}) {
    super(message);
    Object.assign(this, { status, code });
  }
}

export function isAbortError(error) {
  return error.name === "AbortError";
}

function buildUrl(path, parameters) {
  const entries = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(entries).toString();
  return query ? `${path}?${query}` : path;
}

/* [message, code] of an answer that is no success. */
async function readError(response) {
  try {
    const body = await response.json();
    if (typeof body.error === "string") return [body.error, body.code || ""];
  } catch {
    // not JSON: the status has to do
  }
  if (response.status === 503) return ["The server is busy. Try again in a moment.", ""];
  return [`The server answered with status ${response.status}.`, ""];
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("cancelled", "AbortError"));
    });
  });
}

/* The Response of one request; throws ApiError unless its status is 2xx.

   A busy server (503) is asked again after the time that it names, MAX_TRIES times in all; onBusy(seconds) is called
   before each wait. */
export async function request(path, { parameters = {}, body = null, method = "GET", signal = null, onBusy = null, timeout = TIMEOUT } = {}) {
  for (let attempt = 1; ; attempt += 1) {
    const response = await fetchOnce(buildUrl(path, parameters), { method, body, signal, timeout });
    if (response.ok) return response;
    const retryAfter = Number(response.headers.get("Retry-After")) || 1;
    const [message, code] = await readError(response);
    if (response.status !== 503 || attempt === MAX_TRIES) throw new ApiError(message, { status: response.status, code });
    if (onBusy) onBusy(retryAfter);
    await sleep(1000 * Math.min(10, retryAfter), signal);
  }
}

async function fetchOnce(url, { method, body, signal, timeout }) {
  const timeoutSignal = AbortSignal.timeout(1000 * timeout);
  const eitherSignal = signal ? AbortSignal.any([signal, timeoutSignal]) : timeoutSignal;
  const headers = body ? { "Content-Type": "application/octet-stream" } : {};
  try {
    return await fetch(url, { method, body, headers, signal: eitherSignal });
  } catch (error) {
    if (signal?.aborted) throw new DOMException("cancelled", "AbortError");
    if (timeoutSignal.aborted) throw new ApiError(`The server took longer than ${timeout} seconds. Try again, or a smaller model.`);
    throw new ApiError("The server does not answer. Is vitrine serve still running?");
  }
}

export async function getJson(path, parameters = {}, signal = null) {
  return (await request(path, { parameters, signal })).json();
}

/* A request about a picture. Its bytes are sent only if the server does not know it any more, or if the photograph
   itself is needed (withPhoto), which the server does not keep. keptAs is what the server keeps it under: the model, and
   what else its encoding depends on. */
export async function requestWithPicture(picture, model, path, { parameters = {}, withPhoto = false, keptAs = model, ...options } = {}) {
  const fetchOptions = { method: "POST", ...options };
  const reference = withPhoto && !picture.sample ? null : picture.referenceFor(model, keptAs);
  const common = { model, name: reference?.sample ? null : picture.name.slice(0, 200), ...parameters };
  if (reference) {
    try {
      return await request(path, { ...fetchOptions, parameters: { ...common, ...reference } });
    } catch (error) {
      if (error.code !== "gone") throw error;
      picture.serverHashes.delete(keptAs);
    }
  }
  const body = await picture.bytes();
  return request(path, { ...fetchOptions, body, parameters: common });
}

/* The same, and its answer as JSON. */
export async function requestJson(picture, model, path, options = {}) {
  const answer = await (await requestWithPicture(picture, model, path, options)).json();
  if (answer.picture) picture.serverHashes.set(options.keptAs || model, answer.picture);
  return answer;
}

/* Server-sent events of a response: {event, data} with data parsed from JSON. */
export async function* readEvents(response) {
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
