// One request's way through the fleet, as a waterfall: what happened when, and what was decided on it.

import { get } from "./api.js";
import { h, notice } from "./dom.js";
import { figure } from "./text.js";

let section, field, picture;

export const requests = { make, shown: (request) => load(request) };

function make(into) {
  section = into;
  field = h("input", { id: "request", pattern: "[0-9a-f]{16}", placeholder: "the newest one", autocomplete: "off", spellcheck: "false" });
  picture = h("div", { "aria-live": "polite" });
  section.append(h("h1", { id: "requests-title" }, "Requests"),
    h("form", { class: "panel row", onsubmit: go },
      h("label", { class: "long" }, "Request", field), h("button", { class: "main" }, "Show")),
    picture);
  function go(event) {
    event.preventDefault();
    load(field.value.trim());
  }
}

async function load(request) {
  field.value = request ?? "";
  try {
    const story = await get(`/api/fleet/trace${request ? `?request=${encodeURIComponent(request)}` : ""}`);
    if (story) draw(story);
    else picture.replaceChildren(notice("Nobody has asked anything yet."));
  } catch (error) {
    picture.replaceChildren(notice(error.message, error.status === 409 ? "" : "bad"));
  }
}

function draw(story) {
  const { entries } = story;
  const end = entries.at(-1).after_s;
  const whole = end || 1;
  const rows = entries.map((entry, index) => {
    const until = entries[index + 1]?.after_s ?? end;
    const tokens = /^\d+ tokens from/.test(entry.cause);
    const bar = h("span", { class: `bar${tokens ? " tokens" : ""}`, style: {
      "margin-left": `${(100 * entry.after_s) / whole}%`, width: `${Math.max(0.4, (100 * (until - entry.after_s)) / whole)}%`,
    } });
    return h("li", {},
      h("time", {}, `${figure(entry.after_s, 3)} s`),
      h("span", { class: "cause" }, entry.cause, h("ul", {}, entry.decisions.map((words) => h("li", {}, words)))),
      h("span", { class: "track", "aria-hidden": "true" }, bar));
  });
  picture.replaceChildren(
    h("div", { class: "panel" },
      h("h2", {}, `${story.request}: ${story.ended ? `over after ${figure(end, 2)} s` : "goes on"}`),
      h("ol", { class: "waterfall" }, rows),
      story.left_out ? h("p", { class: "muted" }, `${story.left_out} entries of the middle were dropped.`) : null));
}
