// A conversation with whichever model is served.

import { events } from "./api.js";
import { announce, h, notice, say, set } from "./dom.js";
import { fleet, watch } from "./live.js";
import { markdown } from "./markdown.js";
import { figure, ms } from "./text.js";

const KEPT = "linguabus-chat";
const SETTINGS = "linguabus-chat-settings";
const REDRAWS = [[500, 150], [8_000, 400], [Infinity, 800]]; // up to so many characters, milliseconds between two
const DEFAULTS = { temperature: 0.3, max_tokens: 512, system: "" };
const SAMPLES = ["What is the capital of Japan?", "Why is the sky blue?", "Write a haiku about rain."];

const turns = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
const settings = { ...DEFAULTS, ...JSON.parse(localStorage.getItem(SETTINGS) ?? "{}") };
let answering = null; // the AbortController of an answer on its way
let list, field, send, stop, empty, model, details;

export const chat = { make, shown: () => field.focus({ preventScroll: true }) };

function make(section) {
  list = h("ol", { class: "turns", "aria-label": "Conversation" });
  model = h("p", { class: "muted" });
  empty = h("div", { class: "empty" },
    h("h1", { id: "chat-title" }, "Chat"), model,
    h("ul", { class: "samples" }, SAMPLES.map((text) => h("li", {},
      h("button", { type: "button", class: "chip", onclick: () => { field.value = text; ask(); } }, text)))));
  field = h("textarea", { id: "question", rows: "1", placeholder: "Ask something", "aria-label": "Your question" });
  send = h("button", { class: "main", type: "submit" }, "Send");
  stop = h("button", { type: "button", class: "bad", hidden: true, onclick: () => answering?.abort() }, "Stop");
  const form = h("form", { class: "composer", onsubmit: (event) => { event.preventDefault(); ask(); } },
    h("div", { class: "entry" }, field, stop, send), options());
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      ask();
    }
  });
  field.addEventListener("input", grow);
  section.append(h("div", { class: "scroll", tabindex: "-1" }, empty, list), form);
  turns.forEach((turn) => list.append(drawn(turn)));
  watch(showModel);
  refresh();
}

function grow() {
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight, 220)}px`;
}

function showModel() {
  const { service, pipelines = {} } = fleet.picture;
  const stages = Object.values(pipelines).flatMap((one) => Object.values(one.stages ?? {}));
  const devices = new Set(stages.map((stage) => stage.node)).size;
  const on = devices > 1 ? `${devices} devices run it together` : "one device runs it";
  const text = service?.state === "serving" ? `${service.model}: ${on}. Nothing of what you write leaves them.`
    : service?.reason || service?.state || "";
  say(model, text);
}

function options() {
  const number = (name, words, attributes) => {
    const wrong = h("span", { class: "wrong", id: `wrong-${name}`, "aria-live": "polite" });
    const made = h("input", { type: "number", id: `set-${name}`, value: settings[name], placeholder: DEFAULTS[name], "aria-describedby": wrong.id, ...attributes });
    if (!made.value || !made.validity.valid) {
      settings[name] = DEFAULTS[name];
      made.value = DEFAULTS[name];
    }
    made.addEventListener("change", () => {
      say(wrong, made.validationMessage);
      set(made, "aria-invalid", !made.validity.valid);
      if (made.validity.valid) keep(name, made.value ? made.valueAsNumber : DEFAULTS[name]);
    });
    return h("div", { class: "setting" }, h("label", {}, words, made), wrong);
  };
  const system = h("textarea", { id: "set-system", rows: "2" }, settings.system);
  system.addEventListener("change", () => keep("system", system.value));
  details = h("details", {}, h("summary", {}, "Settings"),
    h("div", { class: "stack" },
      h("div", { class: "row" },
        number("temperature", "Temperature", { min: "0", max: "2", step: "0.05" }),
        number("max_tokens", "Most tokens", { min: "1", max: "100000", step: "1" })),
      h("label", {}, "Instructions for the model", system)));
  return h("div", { class: "row options" }, details,
    h("button", { type: "button", class: "quiet", onclick: forget }, "New chat"));
}

function keep(name, value) {
  settings[name] = value;
  localStorage.setItem(SETTINGS, JSON.stringify(settings));
}

/** Are all settings good to ask with? Else the first that is not is shown. */
function areSettingsGood() {
  const wrong = details.querySelector("input:invalid");
  if (!wrong) return true;
  details.open = true;
  wrong.focus();
  return false;
}

function forget() {
  answering?.abort();
  turns.length = 0;
  list.replaceChildren();
  refresh();
  field.focus();
}

function refresh() {
  sessionStorage.setItem(KEPT, JSON.stringify(turns));
  empty.classList.toggle("small", turns.length > 0);
  send.disabled = answering !== null;
  send.hidden = answering !== null;
  stop.hidden = answering === null;
  for (const one of list.querySelectorAll(".again")) one.hidden = answering !== null || one.closest("li") !== list.lastElementChild;
}

function drawn(turn) {
  const body = h("div", { class: "words" });
  if (turn.role === "user") body.textContent = turn.content;
  else body.append(markdown(turn.content));
  const foot = h("p", { class: "foot muted" });
  if (turn.role === "assistant") footnote(turn, foot);
  return h("li", { class: turn.role }, h("span", { class: "unseen" }, turn.role === "user" ? "You:" : "Answer:"), body, foot);
}

function footnote(turn, foot) {
  const { tokens, first_ms: first, rate, request, ended } = turn.figures ?? {};
  const parts = [];
  if (tokens) parts.push(`${tokens} tokens`);
  if (rate) parts.push(`${figure(rate)} tokens/s`);
  if (first) parts.push(`the first after ${ms(first)}`);
  if (ended) parts.push(ended);
  const copy = h("button", { type: "button", class: "quiet", onclick: () => navigator.clipboard?.writeText(turn.content) }, "Copy");
  const again = h("button", { type: "button", class: "quiet again", onclick: regenerate }, "Regenerate");
  foot.replaceChildren(parts.join(" · "), " ",
    ...(request ? [h("a", { href: `#requests/${request}` }, "how it went")] : []), " ", copy, again);
}

function ask() {
  const text = field.value.trim();
  if (!text || answering || !areSettingsGood()) return;
  field.value = "";
  grow();
  turns.push({ role: "user", content: text });
  list.append(drawn(turns.at(-1)));
  answer();
}

function regenerate() {
  if (answering || turns.at(-1)?.role !== "assistant" || !areSettingsGood()) return;
  turns.pop();
  list.lastElementChild.remove();
  answer();
}

async function answer() {
  answering = new AbortController();
  const turn = { role: "assistant", content: "", figures: {} };
  const item = drawn(turn);
  const [, words, foot] = item.children;
  const wait = h("p", { class: "wait muted" }, "thinking");
  words.append(wait);
  foot.replaceChildren();
  list.append(item);
  refresh();
  toEnd(true);
  announce("Answering");
  const conversation = turns.map(({ role, content }) => ({ role, content }));
  turns.push(turn);
  const shown = new Shown(turn, words, wait);
  let failure = null;
  try {
    await stream(conversation, turn, shown);
  } catch (error) {
    if (error.name === "AbortError") turn.figures.ended = "stopped";
    else failure = error;
  }
  answering = null;
  shown.finish();
  if (failure) words.append(notice(failure.message, "bad"));
  if (failure && !turn.content) turns.pop();
  footnote(turn, foot);
  refresh();
  toEnd();
  announce(failure ? failure.message : "The answer is complete");
  field.focus({ preventScroll: true });
}

async function stream(conversation, turn, shown) {
  const messages = settings.system ? [{ role: "system", content: settings.system }, ...conversation] : conversation;
  const body = {
    model: "default", messages, stream: true, stream_options: { include_usage: true },
    temperature: settings.temperature, max_tokens: settings.max_tokens,
  };
  const asked = performance.now();
  let first = null;
  for await (const { comment, data } of events("/v1/chat/completions", { method: "POST", body, signal: answering.signal })) {
    if (comment !== undefined) {
      if (comment.startsWith("waiting for")) shown.waits(comment);
      continue;
    }
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new Error(event.error.message);
    turn.figures.request ??= event.id?.replace("chatcmpl-", "");
    const piece = event.choices[0]?.delta?.content;
    if (piece) {
      first ??= performance.now();
      turn.content += piece;
      shown.later();
    }
    if (event.choices[0]?.finish_reason === "length") turn.figures.ended = "cut at the most tokens";
    if (event.usage) {
      const { completion_tokens: tokens } = event.usage;
      const took = (performance.now() - first) / 1000;
      Object.assign(turn.figures, { tokens, first_ms: first - asked, rate: tokens > 1 ? (tokens - 1) / took : undefined });
    }
  }
}

/** Draws an answer as it comes, a few times a second however many tokens there are. */
class Shown {
  constructor(turn, words, wait) {
    Object.assign(this, { turn, words, wait, timer: null });
  }

  waits(text) {
    this.wait.textContent = text;
    this.words.append(this.wait);
    toEnd();
  }

  later() {
    const [, pauseMs] = REDRAWS.find(([most]) => this.turn.content.length <= most);
    this.timer ??= setTimeout(() => this.draw(), pauseMs);
  }

  draw() {
    this.timer = null;
    const stay = nearEnd();
    this.words.replaceChildren(markdown(this.turn.content));
    if (stay) toEnd(true);
  }

  finish() {
    clearTimeout(this.timer);
    this.draw();
  }
}

function nearEnd() {
  const scroll = list.parentElement;
  return scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;
}

function toEnd(always = false) {
  const scroll = list.parentElement;
  if (always || nearEnd()) scroll.scrollTop = scroll.scrollHeight;
}
