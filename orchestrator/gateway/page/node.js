// One device, in a dialog: what is known of it, and what can be done with it.

import { post } from "./api.js";
import { button, confirmed, failedIn, h, notice } from "./dom.js";
import { called, drainOf, fleet, heldBy } from "./live.js";
import { rename } from "./rename.js";
import { rights } from "./rights.js";
import { unitsOf } from "./ring.js";
import { battery, figure, size } from "./text.js";

const dialog = document.getElementById("dialog");

export function showNode(name) {
  const node = fleet.picture.nodes?.[name] ?? {};
  const stages = heldBy(name).flatMap(([, one]) => Object.values(one.stages).filter((stage) => stage.node === name));
  const told = h("div", {});
  const failed = failedIn(told);
  const rate = (value) => (value === undefined ? undefined : `${figure(value)} % an hour`);
  const shown = called(name);
  const rows = {
    name: shown === name ? undefined : name,
    state: node.reason ? `${node.state}: ${node.reason}` : node.state,
    holds: stages.length ? unitsOf({ stages }) : "nothing",
    drained: node.drained && `${node.drained}; ${drainOf(name)}`,
    "not believed": node.flags?.join("; "),
    battery: battery(node) || undefined,
    "battery, serving": rate(node.battery_serving_percent_per_hour),
    "battery, idle": rate(node.battery_idle_percent_per_hour),
    heat: node.temperature_c === undefined ? undefined : `${node.temperature_c} °C`,
    memory: node.rss_mb === undefined ? size(node.memory_bytes ?? 0) : `${node.rss_mb} MB of ${size(node.memory_bytes)}`,
    processor: node.cpu_percent === undefined ? undefined : `${node.cpu_percent} %, ${node.threads} thread${node.threads === 1 ? "" : "s"}`,
    "to the broker and back": node.rtt_ms === undefined ? undefined : `${node.rtt_ms} ms`,
    runs: [node.platform, node.package_version && `linguabus ${node.package_version}`].filter(Boolean).join(", "),
  };
  const drain = button(node.drained ? "Let it have layers" : "Drain", async () => {
    const { drained, holds, stays } = await post("/api/fleet/drain", { node: name, undo: Boolean(node.drained) });
    const left = holds.length ? ` It still holds layers of ${holds.join(", ")}${stays ? `: ${stays}` : ", which move now"}.` : "";
    told.replaceChildren(notice(drained ? `${shown} gets no layers any more.${left}` : `${shown} may have layers again.`, "good"));
  }, failed);
  const revoke = button("Revoke", async () => {
    if (!(await confirmed(`Revoke ${shown}? It is out at once, and needs a new invitation to come back.`, "Revoke"))) return;
    await post("/api/fleet/members/revoke", { name });
  }, failed, { class: "bad" });
  dialog.oncancel = null;
  dialog.setAttribute("aria-label", `Device ${shown}`);
  dialog.replaceChildren(
    h("h2", {}, shown),
    h("dl", { class: "facts" }, Object.entries(rows).filter(([, value]) => value).map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)])),
    told,
    h("div", { class: "row end" },
      h("a", { class: "button quiet", href: `#plans/${name}`, onclick: () => dialog.close() }, "What if it were not there?"),
      rights.commands ? [h("button", { type: "button", onclick: () => rename(name) }, "Rename"), drain] : null, rights.members ? revoke : null,
      h("button", { type: "button", class: "main", onclick: () => dialog.close() }, "Close")));
  dialog.showModal();
}
