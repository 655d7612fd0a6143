// The page: which view is shown, what the state is, and the key where one is asked for.

import { get, key, onLocked } from "./api.js";
import { chat } from "./chat.js";
import { devices } from "./devices.js";
import { failedIn, h, say, set } from "./dom.js";
import { fleetView } from "./fleet.js";
import { begin, fleet, watch } from "./live.js";
import { models } from "./models.js";
import { plans } from "./plans.js";
import { requests } from "./requests.js";
import { rights } from "./rights.js";
import { figure } from "./text.js";

const VIEWS = { chat, fleet: fleetView, plans, models, devices, requests };
const dialog = document.getElementById("dialog");
const made = new Set();

function show() {
  const [name, detail] = location.hash.slice(1).split("/");
  const shown = name in VIEWS ? name : "chat";
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== shown;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${shown}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${shown[0].toUpperCase()}${shown.slice(1)} – linguabus`;
  const section = document.getElementById(shown);
  if (!made.has(shown)) {
    made.add(shown);
    VIEWS[shown].make(section);
  }
  VIEWS[shown].shown?.(detail);
}

function showState() {
  const { service, pipelines = {} } = fleet.picture;
  const state = document.getElementById("state");
  const [dot, words] = state.children;
  if (!fleet.connected) {
    set(dot, "class", "dot bad");
    say(words, "no connection to the gateway");
  } else if (service?.state === "serving") {
    const rate = Object.values(pipelines).reduce((sum, one) => sum + (one.tokens_per_s ?? 0), 0);
    set(dot, "class", "dot good");
    say(words, rate ? `${service.model} · ${figure(rate)} tokens/s` : `${service.model}`);
  } else if (service) {
    set(dot, "class", service.state === "away" ? "dot bad" : "dot warn");
    say(words, service.state === "away" ? "no orchestrator answers" : service.state);
  }
}

/** Ask for a key, once, and begin when it is right. */
function logIn() {
  if (dialog.open) return;
  const field = h("input", { type: "password", id: "key", autocomplete: "current-password", required: true });
  const told = h("div", {});
  const form = h("form", { class: "stack", onsubmit: enter },
    h("h2", { id: "key-title" }, "Your key"),
    h("p", { class: "muted" }, "This gateway asks for a key. On the fleet's host, ", h("code", {}, "linguabus key NAME --operator"),
      " makes one. It is kept until this tab is closed."),
    h("label", { for: "key" }, "API key"), field, told,
    h("div", { class: "row end" }, h("button", { class: "main" }, "Log in")));
  async function enter(event) {
    event.preventDefault();
    key.keep(field.value.trim());
    try {
      await get("/api/fleet/rights");
    } catch (error) {
      key.forget();
      failedIn(told)(error);
      return;
    }
    dialog.close();
    start();
  }
  dialog.setAttribute("aria-labelledby", "key-title");
  dialog.replaceChildren(form);
  dialog.oncancel = (event) => event.preventDefault();
  dialog.showModal();
}

async function start() {
  document.getElementById("log-out").hidden = !key.known;
  try {
    await rights.learn();
  } catch (error) {
    if (error.status === 401) return;
  }
  begin();
  show();
}

document.getElementById("log-out").addEventListener("click", () => {
  key.forget();
  location.reload();
});
onLocked(() => {
  key.forget();
  logIn();
});
addEventListener("hashchange", () => {
  show();
  document.getElementById("main").focus({ preventScroll: true });
});
watch(showState);
start();
