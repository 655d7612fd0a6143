// Plans: what another one would give, those that were in force, and why layers moved or stayed.

import { get, post } from "./api.js";
import { button, failedIn, grid, h, notice, say } from "./dom.js";
import { called, fleet, watch } from "./live.js";
import { rights } from "./rights.js";
import { age, clock, figure, ms, percent, unitsText } from "./text.js";

const OBJECTIVES = {
  latency: "one reader, quickly", throughput: "many readers at once", balanced: "both", paper: "LinguaLinked's published model",
};
const KEPT = ["max_memory_mb", "pins", "context_tokens"]; // constraints that the form has no fields for
let section, form, objective, excluded, charger, percentField, kept, letGo, result, history, why;
let chosen = new Set();
let inForce = {}; // what every plan has to respect
let asked = null; // the device that the what-if was opened for
let isTouched = false;
let shownEpoch = "";

export const plans = {
  make,
  shown(node) {
    if (node) {
      asked = decodeURIComponent(node);
      isTouched = false;
      begin();
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
  kept = h("span", {});
  letGo = h("input", { type: "checkbox", id: "let-go" });
  result = h("div", { class: "result", "aria-live": "polite" });
  history = h("div", { class: "wide" });
  why = h("ol", { class: "log", tabindex: "0", "aria-label": "Decisions" });
  const failed = failedIn(result);
  section.append(
    h("h1", { id: "plans-title" }, "Plans"),
    form = h("form", { class: "panel stack", inert: true, onsubmit: (event) => event.preventDefault(), oninput: touched },
      h("h2", {}, "What if?"),
      h("div", { class: "row" },
        h("label", {}, "The plan is to be best for", objective),
        h("label", {}, "Least battery, %", percentField),
        h("label", { class: "check" }, charger, "only on a charger")),
      h("fieldset", {}, h("legend", {}, "Without"), excluded),
      h("div", { class: "row kept", hidden: true }, kept, h("label", { class: "check" }, letGo, "let go of them")),
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

/** What was compared is not what the form says any more. */
function touched() {
  isTouched = true;
  result.replaceChildren();
}

/** Note what every plan has to respect, of which the answer about the plans in force tells; none: as it was. */
function learn(plan) {
  inForce = plan?.constraints ?? inForce;
  if (!isTouched) begin();
  const words = keptWords();
  kept.parentElement.hidden = !words.length;
  say(kept, `kept: ${words.join("; ")}`);
}

/** Have the form begin with what is in force. */
function begin() {
  objective.value = inForce.objective ?? "latency";
  chosen = new Set([...(inForce.exclude ?? []), ...(asked ? [asked] : [])]);
  charger.checked = inForce.only_on_charger ?? false;
  percentField.value = inForce.min_battery_percent ?? "";
  letGo.checked = false;
  drawNodes(true);
}

function keptWords() {
  const { max_memory_mb: limits = [], pins = [], context_tokens: context } = inForce;
  return [...limits.map(([node, mb]) => `${called(node)} at most ${figure(mb, 0)} MB`), ...pins.map(([units, node]) => `${units} on ${called(node)}`),
    ...(context ? [`${figure(context, 0)} tokens of context`] : [])];
}

function drawNodes(again = false) {
  const online = Object.entries(fleet.picture.nodes ?? {}).filter(([, node]) => node.state === "online").map(([name]) => name);
  const names = [...new Set([...online, ...(inForce.exclude ?? [])])];
  const key = names.map((name) => `${name} ${called(name)}`).join("\n");
  if (!again && excluded.dataset.key === key) return;
  excluded.dataset.key = key;
  excluded.replaceChildren(...names.map((name) => {
    const box = h("input", { type: "checkbox", value: name, checked: chosen.has(name) });
    box.addEventListener("change", () => (box.checked ? chosen.add(name) : chosen.delete(name)));
    return h("label", { class: "check" }, box, called(name) === name ? name : `${called(name)} (${name})`);
  }));
}

function constraints() {
  const known = fleet.picture.nodes ?? {};
  const exclude = [...chosen].filter((name) => name in known || inForce.exclude?.includes(name));
  const wanted = { objective: objective.value, exclude, only_on_charger: charger.checked };
  if (percentField.value) wanted.min_battery_percent = percentField.valueAsNumber;
  if (letGo.checked) return wanted;
  for (const name of KEPT) if (name in inForce) wanted[name] = inForce[name];
  return wanted;
}

async function compare() {
  result.replaceChildren(notice("the planner is at work"));
  const now = await get("/api/fleet/plan").catch(() => null);
  learn(now);
  const wanted = constraints();
  const { explanation } = await post("/api/fleet/preview", wanted);
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
    asked = null;
    isTouched = false;
    load();
  }, failedIn(told));
  result.replaceChildren(...(explanation.division ? divided(now, explanation.division) : together(now, explanation)),
    told, rights.commands ? h("div", { class: "row" }, put) : "");
}

/** A plan of one ring. */
function together(now, { predicted, stages, why: reasons }) {
  return [figures(now, predicted), strip(stages), h("ul", { class: "why" }, reasons.map((words) => h("li", {}, words)))];
}

/** A plan of several rings, of which other figures and reasons are true than of the one ring that it is in place of. */
function divided(now, { pipelines, unused, tokens_per_s_many: many }) {
  const fastest = Math.min(...pipelines.map((one) => one.decode_ms));
  const count = Math.max(...pipelines.flatMap((one) => one.stages.map((stage) => stage.stop)));
  const rings = pipelines.map(({ stages }) => h("li", {}, strip(stages.map((one) => ({ ...one, units: unitsText(one.start, one.stop, count) })))));
  return [figures(now, { tokens_per_s: fastest ? 1000 / fastest : undefined, tokens_per_s_many: many }),
    h("p", {}, `The fleet would be divided into ${pipelines.length} pipelines:`), h("ol", { class: "rings" }, rings),
    unused.length ? h("p", { class: "muted" }, `not used: ${unused.map(called).join(", ")}`) : ""];
}

/** Figures of a plan beside those in force; what is not known of it is left out. */
function figures(now, then) {
  const running = now?.pipelines.filter((one) => one.in_force) ?? [];
  const best = running.toSorted((one, other) => other.predicted_tokens_per_s - one.predicted_tokens_per_s)[0];
  const many = running.reduce((sum, one) => sum + one.predicted_tokens_per_s_many, 0);
  const rows = [
    ["tokens/s for one reader", best?.predicted_tokens_per_s, then.tokens_per_s, true],
    ["tokens/s for many", best && many, then.tokens_per_s_many, true],
    ["until the first token", best?.predicted_ttft_ms, then.ttft_ms, false],
  ].filter(([, , after]) => after !== undefined);
  const cell = (value, more) => h("td", {}, more ? figure(value) : ms(value));
  const compared = rows.map(([words, before, after, more]) => {
    const share = before ? after / before - 1 : 0;
    const better = Math.abs(share) < 0.005 ? "" : share > 0 === more ? "better" : "worse";
    return h("tr", {}, h("th", { scope: "row" }, words), cell(before, more), cell(after, more), h("td", { class: better }, before ? percent(share) : ""));
  });
  const slowest = then.bottleneck_node && h("tr", {}, h("th", { scope: "row" }, "slowest device"), h("td", {}, best ? called(best.bottleneck_node) : "–"), h("td", {}, called(then.bottleneck_node)), h("td", {}));
  return grid(["predicted", "now", "then", ""], [...compared, slowest ?? ""], { class: "compared" });
}

/** A ring in a line. */
function strip(stages) {
  return h("ol", { class: "strip" }, stages.map((stage) => h("li", {}, h("strong", {}, called(stage.node)), ` ${stage.units.replaceAll("-", "–")}`)));
}

async function load() {
  shownEpoch = epochsNow();
  try {
    const [moves, past, plan] = await Promise.all([get("/api/fleet/moves"), get("/api/fleet/plans"), get("/api/fleet/plan").catch(() => null)]);
    learn(plan);
    drawWhy(moves.pipelines);
    drawHistory(past.plans);
  } catch (error) {
    failedIn(history)(error);
  } finally {
    form.inert = false; // it begins with what is in force, once that is known
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
