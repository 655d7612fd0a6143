// What people call a device, in a dialog: a word or two of theirs; its name stays.

import { post } from "./api.js";
import { announce, failedIn, h } from "./dom.js";
import { called } from "./live.js";

const LONGEST = "64";
const dialog = document.getElementById("dialog");

export function rename(name) {
  const field = h("input", { id: "label", maxlength: LONGEST, autocomplete: "off", value: called(name) });
  const told = h("div", {});
  async function send(event) {
    event.preventDefault();
    try {
      const { label } = await post("/api/fleet/rename", { node: name, label: field.value });
      dialog.close();
      announce(label ? `${name} is called ${label}` : `${name} is called by its name`);
    } catch (error) {
      failedIn(told)(error);
    }
  }
  dialog.oncancel = null;
  dialog.setAttribute("aria-label", `Rename ${called(name)}`);
  dialog.replaceChildren(h("form", { class: "stack", onsubmit: send },
    h("h2", {}, `Rename ${called(name)}`),
    h("label", {}, "What it is called here", field),
    h("p", { class: "muted" }, "It stays ", h("code", {}, name), " for commands and on the broker. Nothing here: it is called that again."),
    told,
    h("div", { class: "row end" },
      h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel"),
      h("button", { class: "main" }, "Rename"))));
  if (dialog.open) dialog.close();
  dialog.showModal();
  field.select();
}
