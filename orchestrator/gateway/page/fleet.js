// The fleet: who holds what, how a token goes, and what happens.

import { grid, h, notice, say, set } from "./dom.js";
import { called, fleet, idOf, watch } from "./live.js";
import { showNode } from "./node.js";
import { Ring, devicesOf, unitsOf } from "./ring.js";
import { battery, clock, figure, ms, size } from "./text.js";

const SHOWN_EVENTS = 40;
const rings = new Map();
let section, banner, pictures, others, table, log, figures;

export const fleetView = { make, shown: draw };

function make(into) {
  section = into;
  banner = h("div", { "aria-live": "polite" });
  figures = h("dl", { class: "figures" });
  pictures = h("div", { class: "pictures" });
  others = h("ul", { class: "chips" });
  table = h("details", { class: "panel" }, h("summary", {}, "As a table"), h("div", { class: "wide" }));
  log = h("ol", { class: "log", tabindex: "0", "aria-label": "What happened" });
  section.append(
    h("div", { class: "head" }, h("h1", { id: "fleet-title" }, "Fleet"), figures),
    banner, pictures,
    h("div", { class: "beside" }, h("h2", {}, "Without layers"), others),
    table,
    h("div", { class: "panel" }, h("h2", {}, "What happened"), log));
  table.addEventListener("toggle", draw);
  new ResizeObserver(draw).observe(section);
  watch(draw);
}

function draw() {
  if (section.hidden) return;
  const { service = {}, pipelines = {}, nodes = {} } = fleet.picture;
  drawBanner(service, pipelines);
  drawFigures(pipelines, nodes);
  drawRings(pipelines, nodes);
  drawOthers(pipelines, nodes);
  if (table.open) drawTable(pipelines, nodes);
  drawLog();
}

function drawBanner(service, pipelines) {
  const told = [];
  if (!fleet.connected) told.push(["The gateway does not answer; what is shown is how it was.", "bad"]);
  else if (service.state === "away") told.push([`No orchestrator answers: ${service.reason}`, "bad"]);
  else if (service.state && service.state !== "serving") told.push([`${service.state}${service.reason ? `: ${service.reason}` : ""}`, "warn"]);
  if (service.last_failure) told.push([`The last plan was given up: ${service.last_failure}`, "warn"]);
  for (const [name, one] of Object.entries(pipelines)) {
    const where = Object.keys(pipelines).length > 1 ? `${name}: ` : "";
    if (one.move) {
      const { units, phase, mode, copied_bytes: copied, expected_bytes: expected } = one.move;
      told.push([`${where}moving ${units}: ${phase}${mode === "copy" ? `, ${size(copied)} of ${size(expected)} copied` : ""}`, "moving"]);
    } else if (one.next) told.push([`${where}another plan is on its way: ${one.next.state}`, "moving"]);
    for (const [node, { done_bytes: done, total_bytes: total }] of Object.entries(one.progress ?? {})) {
      told.push([`${called(node)} fetches its part: ${size(done)} of ${size(total)}`, "moving"]);
    }
  }
  const key = JSON.stringify(told);
  if (banner.dataset.key === key) return;
  banner.dataset.key = key;
  banner.replaceChildren(...told.map(([words, kind]) => notice(words, kind)));
}

function drawFigures(pipelines, nodes) {
  const all = Object.values(pipelines);
  const total = (name) => all.reduce((sum, one) => sum + (one[name] ?? 0), 0);
  const online = Object.values(nodes).filter((node) => node.state === "online").length;
  const rows = {
    "tokens/s": figure(total("tokens_per_s")),
    "for one reader": figure(Math.max(0, ...all.map((one) => one.predicted_tokens_per_s ?? 0))),
    "for many": figure(total("predicted_tokens_per_s_many")),
    answering: `${total("open_requests")}${total("queued_requests") ? ` + ${total("queued_requests")} waiting` : ""}`,
    devices: `${online}`,
  };
  if (!figures.children.length) figures.append(...Object.keys(rows).map((name) => h("div", {}, h("dt", {}, name), h("dd", {}))));
  Object.values(rows).forEach((value, index) => say(figures.children[index].lastChild, value));
}

function drawRings(pipelines, nodes) {
  const working = Object.entries(pipelines).filter(([, one]) => Object.keys(one.stages ?? {}).length);
  for (const name of rings.keys()) {
    if (working.some(([one]) => one === name)) continue;
    rings.get(name).panel.remove();
    rings.delete(name);
  }
  for (const [name, pipeline] of working) {
    if (!rings.has(name)) {
      const ring = new Ring(showNode);
      const title = h("h2", {});
      const panel = h("div", { class: "panel ring-panel" }, title, h("div", { class: "wide" }, ring.element));
      rings.set(name, { ring, panel, title });
      pictures.append(panel);
    }
    const { ring, title, panel } = rings.get(name);
    say(title, `${working.length > 1 ? `${name}: ` : ""}${pipeline.model}, plan ${pipeline.epoch}${pipeline.draft ? `; ${pipeline.draft} guesses` : ""}`);
    ring.draw(pipeline, nodes, panel.clientWidth - 32);
  }
}

function drawOthers(pipelines, nodes) {
  const used = new Set(Object.values(pipelines).flatMap((one) => Object.values(one.stages ?? {}).map((stage) => stage.node)));
  const idle = Object.entries(nodes).filter(([name]) => !used.has(name));
  const rows = idle.map(([name, node]) => [name, called(name), node.state, node.drained ?? node.reason ?? node.leaving ?? "", battery(node)]);
  set(others.parentElement, "class", rows.length ? "beside panel" : "beside panel none");
  const key = JSON.stringify(rows);
  if (others.dataset.key === key) return;
  others.dataset.key = key;
  others.replaceChildren(...rows.map(([name, shown, state, why, charge]) => h("li", {},
    h("button", { type: "button", class: `chip ${state === "online" ? "" : "lost"}`, onclick: () => showNode(name) },
      h("span", { class: `dot ${state === "online" ? "good" : "bad"}` }), h("strong", {}, shown), ` ${state === "online" ? why || "stands by" : why ? `${state}: ${why}` : state} ${charge}`))));
}

function drawTable(pipelines, nodes) {
  const rows = Object.entries(pipelines).flatMap(([pipeline, one]) => devicesOf(Object.values(one.stages ?? {})).map((device) => {
    const node = nodes[device.name] ?? {};
    return [called(device.name), pipeline, unitsOf(device), ms(device.timeMs),
      ms(device.stages.reduce((sum, stage) => sum + (stage.predicted_ms ?? 0), 0)), node.state ?? "", battery(node),
      node.temperature_c === undefined ? "" : `${node.temperature_c} °C`];
  }));
  const heads = ["device", "pipeline", "holds", "a token takes", "planned", "state", "battery", "heat"];
  table.lastElementChild.replaceChildren(grid(heads,
    rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row[0]), row.slice(1).map((cell) => h("td", {}, cell))))));
}

function drawLog() {
  const newest = fleet.happened.slice(-SHOWN_EVENTS).reverse();
  const key = newest.length ? `${idOf(newest[0])} ${newest.length}` : "";
  if (log.dataset.key === key) return;
  log.dataset.key = key;
  log.replaceChildren(...newest.map((event) => h("li", { class: event.warning ? "warn" : "" },
    h("time", {}, clock(event.at_s)), h("span", { class: "kind" }, event.kind), h("span", {}, event.text))));
}
