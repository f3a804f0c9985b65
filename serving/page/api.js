// Requests to the gateway: the API key, errors in plain words, server-sent events.

import { $ } from "./dom.js";

const KEY = "luna-key"; // in sessionStorage: gone with the tab

export class ApiError extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

/** GET, or POST where there is a body. Asks for the key on a 401, unless told not to, and tries again.
 *  Throws ApiError, or the signal's AbortError. */
export async function request(path, { body, signal, ask = true } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const response = await send(path, body, signal, key);
    if (response.ok) return response;
    if (response.status !== 401 || !ask) throw new ApiError(await reason(response), response.status);
    if (key !== sessionStorage.getItem(KEY)) continue; // another request has got a new key in the meantime
    sessionStorage.removeItem(KEY);
    await askForKey(key !== null);
  }
}

export const get = async (path, options) => (await request(path, options)).json();

export const post = async (path, body) => (await request(path, { body })).json();

/** The events of a response, as they come: { name, data }. Comment lines are keep-alives and are dropped. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let rest = ""; ; ) {
      const { done, value } = await reader.read().catch(broken);
      if (done) return;
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parsed(block);
        if (event.name) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever listened has had enough, or it has ended anyway
  }
}

function parsed(block) {
  const lines = block.split(/\r?\n/);
  const field = (name) => lines.find((line) => line.startsWith(`${name}:`))?.slice(name.length + 1).trimStart();
  return { name: field("event"), data: JSON.parse(field("data") ?? "{}") };
}

async function send(path, body, signal, key) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  const method = body ? "POST" : "GET";
  return fetch(path, { method, headers, body: body && JSON.stringify(body), signal, cache: "no-store" }).catch(
    (error) => {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The server cannot be reached.", 0);
    },
  );
}

function broken(error) {
  if (error.name === "AbortError") throw error;
  throw new ApiError("The connection broke before the answer was finished.", 0);
}

async function reason(response) {
  const said = await response.json().catch(() => null);
  return said?.error?.message ?? said?.reason ?? `The server answered with ${response.status} ${response.statusText}.`;
}

let asking = null; // one dialog, however many requests wait for it

function askForKey(refused) {
  asking ??= new Promise((resolve, reject) => {
    const dialog = $("key-dialog");
    $("key-title").textContent = refused ? "The server did not accept this key" : "This server asks for its API key";
    $("key").value = "";
    dialog.returnValue = "";
    dialog.addEventListener("close", close, { once: true });
    dialog.showModal();

    function close() {
      asking = null;
      if (dialog.returnValue !== "use") return reject(new ApiError("This server asks for its API key.", 401));
      sessionStorage.setItem(KEY, $("key").value.trim());
      return resolve();
    }
  });
  return asking;
}
