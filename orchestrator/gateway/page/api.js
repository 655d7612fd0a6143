// The gateway's interface: JSON, and server-sent events with a key where one is asked for.

const KEY = "linguabus-key";

export class ApiError extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

let locked = () => {};

/** Call this when the gateway asks for a key. */
export function onLocked(callback) {
  locked = callback;
}

export const key = {
  get known() {
    return sessionStorage.getItem(KEY);
  },
  keep(text) {
    sessionStorage.setItem(KEY, text);
  },
  forget() {
    sessionStorage.removeItem(KEY);
  },
};

async function ask(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  if (key.known) headers.authorization = `Bearer ${key.known}`;
  const isFile = body instanceof Blob;
  if (body !== undefined) headers["content-type"] = isFile ? "application/octet-stream" : "application/json";
  let response;
  try {
    response = await fetch(path, {
      method, headers, signal, body: body === undefined || isFile ? body : JSON.stringify(body), cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the gateway does not answer: is 'linguabus api' running?");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const told = said.error?.message ?? said.error ?? `the gateway says ${response.status}`;
  if (response.status === 401) locked();
  throw new ApiError(response.status, told, said.error?.code);
}

export async function get(path) {
  return (await ask(path)).json();
}

export async function post(path, body = {}) {
  return (await ask(path, { method: "POST", body })).json();
}

/** Send a file as it is; ends with an AbortError when `signal` says so. */
export async function send(path, file, signal) {
  return (await ask(path, { method: "POST", body: file, signal })).json();
}

/** Yields { kind, data } of each event and { comment } of each comment. */
export async function* events(path, options = {}) {
  const response = await ask(path, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) yield parsed(part);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(part) {
  let kind = "";
  const data = [];
  for (const row of part.split("\n")) {
    if (row.startsWith(":")) return { comment: row.slice(1).trim() };
    if (row.startsWith("event: ")) kind = row.slice(7);
    if (row.startsWith("data: ")) data.push(row.slice(6));
  }
  return { kind, data: data.join("\n") };
}
