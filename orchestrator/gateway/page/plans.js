// Plans: what another one would give, those that were in force, and why layers moved or stayed.

import { get, post } from "./api.js";
import { button, failedIn, grid, h, notice } from "./dom.js";
import { called, fleet, watch } from "./live.js";
import { rights } from "./rights.js";
import { age, clock, figure, ms, percent } from "./text.js";

const OBJECTIVES = {
  latency: "one reader, quickly", throughput: "many readers at once", balanced: "both", paper: "LinguaLinked's published model",
};
let section, objective, excluded, charger, percentField, result, history, why;
let chosen = new Set();
let shownEpoch = "";

export const plans = {
  make,
  shown(node) {
    if (node) {
      chosen = new Set([decodeURIComponent(node)]);
      drawNodes(true);
    }
    load();
  },
};

function make(into) {
  section = into;
  objective = h("select", { id: "objective" }, Object.entries(OBJECTIVES).map(([name, words]) => h("option", { value: name }, `${name}: ${words}`)));
  excluded = h("div", { class: "checks" });
  charger = h("input", { type: "checkbox", id: "on-charger" });
  percentField = h("input", { type: "number", id: "min-battery", min: "0", max: "100", placeholder: "any" });
  result = h("div", { class: "result", "aria-live": "polite" });
  history = h("div", { class: "wide" });
  why = h("ol", { class: "log", tabindex: "0", "aria-label": "Decisions" });
  const failed = failedIn(result);
  section.append(
    h("h1", { id: "plans-title" }, "Plans"),
    h("form", { class: "panel stack", onsubmit: (event) => event.preventDefault() },
      h("h2", {}, "What if?"),
      h("div", { class: "row" },
        h("label", {}, "The plan is to be best for", objective),
        h("label", {}, "Least battery, %", percentField),
        h("label", { class: "check" }, charger, "only on a charger")),
      h("fieldset", {}, h("legend", {}, "Without"), excluded),
      h("div", { class: "row" }, button("Compare", compare, failed, { class: "main", id: "compare" })),
      result),
    h("div", { class: "panel" }, h("h2", {}, "Why layers moved or stayed"), why),
    h("div", { class: "panel" }, h("h2", {}, "Plans so far"), history));
  watch(() => {
    if (section.hidden) return;
    drawNodes();
    const epochs = epochsNow();
    if (epochs && epochs !== shownEpoch) load();
  });
}

function epochsNow() {
  return Object.values(fleet.picture.pipelines ?? {}).map((one) => one.epoch).join(" ");
}

function drawNodes(again = false) {
  const names = Object.entries(fleet.picture.nodes ?? {}).filter(([, node]) => node.state === "online").map(([name]) => name);
  const key = names.map((name) => `${name} ${called(name)}`).join("\n");
  if (!again && excluded.dataset.key === key) return;
  excluded.dataset.key = key;
  excluded.replaceChildren(...names.map((name) => {
    const box = h("input", { type: "checkbox", value: name, checked: chosen.has(name) });
    box.addEventListener("change", () => (box.checked ? chosen.add(name) : chosen.delete(name)));
    return h("label", { class: "check" }, box, called(name));
  }));
}

function constraints() {
  const known = fleet.picture.nodes ?? {};
  const wanted = { objective: objective.value, exclude: [...chosen].filter((name) => name in known), only_on_charger: charger.checked };
  if (percentField.value) wanted.min_battery_percent = percentField.valueAsNumber;
  return wanted;
}

async function compare() {
  result.replaceChildren(notice("the planner is at work"));
  const wanted = constraints();
  const [now, then] = await Promise.all([get("/api/fleet/plan").catch(() => null), post("/api/fleet/preview", wanted)]);
  const { explanation } = then;
  if (!explanation.feasible) {
    result.replaceChildren(notice(`There is no such plan: ${explanation.reason}`, "warn"),
      ...(explanation.fixes.length ? [h("ul", {}, explanation.fixes.map((fix) => h("li", {}, fix)))] : []));
    return;
  }
  const told = h("div", {});
  const put = button("Put it in force", async () => {
    told.replaceChildren(notice("moving"));
    const { changed } = await post("/api/fleet/apply", wanted);
    told.replaceChildren(notice(changed ? "It is in force, and later plans respect the same." : "It was in force already.", "good"));
    load();
  }, failedIn(told));
  result.replaceChildren(
    figures(now, explanation.predicted),
    strip(explanation.stages),
    h("ul", { class: "why" }, explanation.why.map((words) => h("li", {}, words))),
    ...(explanation.division ? [notice(`The fleet would be divided into ${explanation.division.pipelines.length} pipelines, together ${figure(explanation.division.tokens_per_s_many)} tokens/s.`)] : []),
    told, rights.commands ? h("div", { class: "row" }, put) : null);
}

function figures(now, then) {
  const rows = [
    ["tokens/s for one reader", now?.predicted_tokens_per_s, then.tokens_per_s, true],
    ["tokens/s for many", now?.predicted_tokens_per_s_many, then.tokens_per_s_many, true],
    ["until the first token", now?.predicted_ttft_ms, then.ttft_ms, false],
  ];
  const cell = (value, more) => h("td", {}, more ? figure(value) : ms(value));
  const compared = rows.map(([words, before, after, more]) => {
    const share = before ? after / before - 1 : 0;
    const better = Math.abs(share) < 0.005 ? "" : share > 0 === more ? "better" : "worse";
    return h("tr", {}, h("th", { scope: "row" }, words), cell(before, more), cell(after, more), h("td", { class: better }, before ? percent(share) : ""));
  });
  const slowest = h("tr", {}, h("th", { scope: "row" }, "slowest device"), h("td", {}, now ? called(now.bottleneck_node) : "–"), h("td", {}, called(then.bottleneck_node)), h("td", {}));
  return grid(["predicted", "now", "then", ""], [...compared, slowest], { class: "compared" });
}

/** A ring in a line. */
function strip(stages) {
  return h("ol", { class: "strip" }, stages.map((stage) => h("li", {}, h("strong", {}, called(stage.node)), ` ${stage.units.replaceAll("-", "–")}`)));
}

async function load() {
  shownEpoch = epochsNow();
  try {
    const [moves, past] = await Promise.all([get("/api/fleet/moves"), get("/api/fleet/plans")]);
    drawWhy(moves.pipelines);
    drawHistory(past.plans);
  } catch (error) {
    failedIn(history)(error);
  }
}

function drawWhy(pipelines) {
  const rows = pipelines.flatMap((one) => [
    ...(one.stays ? [h("li", {}, h("span", { class: "kind" }, "stays"), h("span", {}, one.stays))] : []),
    ...one.decisions.toReversed().map((said) => h("li", {},
      h("time", {}, `${age(said.last_s_ago)} ago`),
      h("span", { class: "kind" }, said.verdict + (said.times > 1 ? ` × ${said.times}` : "")),
      h("span", {}, said.reason + (said.gain ? `; ${figure(said.gain * 100)} % less time` : "")))),
  ]);
  why.replaceChildren(...(rows.length ? rows.slice(0, 30) : [h("li", { class: "muted" }, "Nothing had to be decided yet.")]));
}

function drawHistory(past) {
  const heads = ["plan", "since", "best for", "ring", "one reader", "many"];
  const rows = past.map((plan, index) => h("tr", {},
    h("th", { scope: "row" }, plan.epoch), h("td", {}, clock(plan.committed_at)), h("td", {}, plan.objective),
    h("td", {}, strip(plan.stages), h("span", { class: "muted" }, moved(past[index + 1], plan))),
    h("td", {}, figure(plan.predicted_tokens_per_s)), h("td", {}, figure(plan.predicted_tokens_per_s_many))));
  history.replaceChildren(rows.length ? grid(heads, rows) : h("p", { class: "muted" }, "There was no plan yet."));
}

/** What a plan has changed, in words. */
function moved(before, after) {
  if (!before) return "";
  if (before.model !== after.model) return `another model: ${after.model}`;
  const holders = (plan) => plan.stages.flatMap((stage) => Array(stage.stop - stage.start).fill(stage.node));
  const had = holders(before);
  const changed = holders(after).filter((node, unit) => had[unit] !== node).length;
  return changed ? `${changed} of ${had.length} parts moved` : "every device kept its parts";
}
