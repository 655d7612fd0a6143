// The fleet as it is now: one stream from the gateway, patches applied to a picture, and who wants to know is told.

import { events } from "./api.js";

const MOST_HAPPENED = 200;
const LONGEST_PAUSE_MS = 10_000;

export const fleet = { picture: {}, happened: [], connected: false };

const watchers = new Set();
let stream = null;

/** Call `watcher()` at each change, and now. */
export function watch(watcher) {
  watchers.add(watcher);
  watcher();
}

/** What people call a device, which may be another word than its name. */
export function called(name) {
  return fleet.picture.nodes?.[name]?.label ?? name;
}

/** The pipelines that a device holds layers of, by name. */
export function heldBy(name) {
  return Object.entries(fleet.picture.pipelines ?? {}).filter(([, one]) => Object.values(one.stages ?? {}).some((stage) => stage.node === name));
}

/** How far a drained device is, in words. */
export function drainOf(name) {
  const held = heldBy(name);
  if (!held.length) return "no layers";
  const stays = [...new Set(held.map(([, one]) => one.reason).filter(Boolean))];
  return stays.length ? `keeps its layers until others can hold them: ${stays.join("; ")}` : "gives its layers up";
}

export function idOf(event) {
  return `${event.at_s} ${event.number}`;
}

function tell() {
  for (const watcher of watchers) watcher();
}

/** A JSON merge patch (RFC 7386) applied in place. */
function merge(target, patch) {
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete target[name];
    else if (typeof value === "object" && !Array.isArray(value)) {
      if (typeof target[name] !== "object" || Array.isArray(target[name])) target[name] = {};
      merge(target[name], value);
    } else target[name] = value;
  }
}

async function read(signal) {
  const known = new Set();
  let fresh = {};
  let happened = [];
  for await (const { kind, data } of events("/api/fleet/live", { signal })) {
    if (kind === "fleet") {
      merge(fresh, JSON.parse(data));
      fleet.picture = fresh;
      fleet.connected = true;
    } else if (kind === "happened") {
      const event = JSON.parse(data);
      const id = idOf(event); // one that was heard and asked for comes twice
      if (known.has(id)) continue;
      known.add(id);
      happened = [...happened, event].slice(-MOST_HAPPENED);
      fleet.happened = happened;
    } else continue;
    tell();
  }
}

async function keepReading(signal) {
  let pause = 500;
  while (!signal.aborted) {
    try {
      await read(signal);
      pause = 500;
    } catch (error) {
      if (signal.aborted || error.status === 401) return;
    }
    fleet.connected = false;
    tell();
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
  }
}

function start() {
  stop();
  stream = new AbortController();
  keepReading(stream.signal);
}

function stop() {
  stream?.abort();
  stream = null;
}

/** Begin, and rest while nobody looks: a phone in a pocket asks for nothing. */
export function begin() {
  start();
  document.onvisibilitychange = () => (document.hidden ? stop() : start());
}
