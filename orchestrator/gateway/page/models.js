// Models: which there are, which one is served, and how another one comes.

import { get, post, send } from "./api.js";
import { button, failedIn, h, line, notice } from "./dom.js";
import { fleet, watch } from "./live.js";
import { rights } from "./rights.js";
import { size } from "./text.js";

const LOOK_MS = 1000;
const ERROR = "Error: ";
let section, list, adding, told, refused, timer;
let served = null;
let sending = null;
let goesOn = false;

export const models = { make, shown: load };

function make(into) {
  section = into;
  list = h("div", { class: "grid" });
  adding = h("div", { "aria-live": "polite" });
  told = h("div", {});
  refused = h("div", {});
  section.append(h("h1", { id: "models-title" }, "Models"), told, list, h("div", { class: "panel stack" }, h("h2", {}, "Add a model"), add(), refused, adding));
  watch(() => {
    if (!section.hidden && fleet.picture.service?.model !== served) load();
  });
}

function add() {
  if (!rights.models) {
    return h("div", { class: "stack" }, h("p", { class: "muted" }, "On the fleet's host, type this; any Hugging Face name, GGUF file or folder will do:"),
      line("linguabus model add HuggingFaceTB/SmolLM2-360M-Instruct"));
  }
  const field = h("input", { id: "source", placeholder: "HuggingFaceTB/SmolLM2-360M-Instruct", required: true, list: "sources" });
  const form = h("form", { class: "row", onsubmit: begin },
    h("label", { class: "long" }, "Name on Hugging Face, or “demo”", field), h("button", { class: "main" }, "Add"));
  async function begin(event) {
    event.preventDefault();
    refused.replaceChildren();
    try {
      await post("/api/fleet/models/add", { source: field.value.trim() });
      field.value = "";
      await load();
    } catch (error) {
      failedIn(refused)(error);
      await load();
    }
  }
  return h("div", { class: "stack" }, form, upload(),
    h("p", { class: "muted" }, "A file of the host is added there: ", h("code", {}, "linguabus model add FILE.gguf")));
}

function upload() {
  const file = h("input", { type: "file", accept: ".gguf,.tar", required: true });
  const most = size(rights.upload_bytes);
  async function begin(event) {
    event.preventDefault();
    refused.replaceChildren();
    if (file.files[0].size > rights.upload_bytes) {
      refused.replaceChildren(notice(`${file.files[0].name} is ${size(file.files[0].size)} long, and ${most} are the most: add it on the fleet's host, linguabus model add FILE`, "bad"));
      await load();
      return;
    }
    sending = new AbortController();
    const coming = send(`/api/fleet/models/upload?name=${encodeURIComponent(fileName(file.files[0].name))}`, file.files[0], sending.signal);
    timer = setTimeout(load, LOOK_MS);
    try {
      await coming;
      event.target.reset();
    } catch (error) {
      if (error.name !== "AbortError") failedIn(refused)(error);
    } finally {
      sending = null;
    }
    await load();
  }
  return h("form", { class: "row", onsubmit: begin },
    h("label", { class: "long" }, `A file from here: .gguf, or .tar of “linguabus model export”; ${most} at most`, file), h("button", {}, "Upload"));
}

/** A file's name as the host takes it: letters, digits, ".", "_" and "-". */
function fileName(name) {
  const [, stem, ending] = name.match(/^(.*?)(\.[^.]*)?$/s);
  const plain = stem.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "").slice(0, 180);
  return (plain || "model") + (ending ?? "").toLowerCase();
}

async function load() {
  clearTimeout(timer);
  let state;
  try {
    state = await get("/api/fleet/models");
  } catch (error) {
    failedIn(list)(error);
    lookAgain();
    return;
  }
  goesOn = Boolean(state.adding?.goes_on);
  served = state.served;
  drawList(state);
  drawAdding(state.adding);
  lookAgain();
}

/** While a model comes, or whoever knows of it was out of reach for a moment. */
function lookAgain() {
  if ((sending || goesOn) && !section.hidden) timer = setTimeout(load, LOOK_MS);
}

function drawList({ served: name, models: known }) {
  const rows = known ?? (name ? [{ name }] : []);
  list.replaceChildren(...rows.map((model) => {
    const isServed = model.name === name;
    const use = button("Use", async () => {
      told.replaceChildren(notice(`changing over to ${model.name}; answers on their way are finished first`, "moving"));
      await post("/api/fleet/model", { model: model.name });
      told.replaceChildren(notice(`${model.name} is served`, "good"));
      await load();
    }, failedIn(told), { "aria-label": `Use ${model.name}` });
    const facts = [model.family, model.precision, model.blocks && `${model.blocks} blocks`, model.weight_bytes && size(model.weight_bytes),
      model.context_tokens && `${model.context_tokens} tokens of context`];
    return h("article", { class: `panel model${isServed ? " served" : ""}` },
      h("h2", {}, model.name), h("p", { class: "muted" }, facts.filter(Boolean).join(" · ")),
      isServed ? h("p", { class: "served-mark" }, "served now") : rights.commands ? use : null);
  }), ...(rows.length ? [] : [notice("No model yet: add one below.")]));
}

function drawAdding(state) {
  // What was said of an older one is not why this one was refused.
  if (!state || (refused.hasChildNodes() && !goesOn)) {
    adding.replaceChildren();
    return;
  }
  const { source, ok, was_here: wasHere } = state;
  const why = goesOn || ok ? undefined : state.lines.findLast((one) => one.startsWith(ERROR));
  const lines = state.lines.filter((one) => one !== why).slice(-12);
  const head = goesOn ? notice(`adding ${source}`, "moving") : ok ? notice(`${source} ${wasHere ? "is here already" : "was added"}`, "good")
    : notice(`${source} was not added${why ? `: ${why.slice(ERROR.length)}` : ""}`, "bad");
  const cancel = button("Cancel", async () => {
    sending?.abort();
    await post("/api/fleet/models/cancel");
    await load();
  }, failedIn(refused));
  adding.replaceChildren(head, lines.length ? h("pre", { tabindex: "0", "aria-label": "What was said" }, lines.join("\n")) : "", goesOn ? cancel : "");
}
