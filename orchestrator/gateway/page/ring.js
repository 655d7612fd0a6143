// The ring as a picture: a card for each device, in the order in which a token goes round.

import { s, say, set } from "./dom.js";
import { battery, ms } from "./text.js";

const WIDE = { width: 196, height: 104, gap: 44 };
const NARROW = { width: 142, height: 76, gap: 30 };
const MANY = 14; // devices for which narrow cards are drawn
const FAMILY = getComputedStyle(document.documentElement).fontFamily;
const NAME = `600 14px ${FAMILY}`;
const SMALL = `11.5px ${FAMILY}`;
const ruler = document.createElement("canvas").getContext("2d");
const GUTTER = 30;
const TOP = 14;
const ROUND_MS = 5000;
const DEVICE_MS = 300;
const PLACES_ON_LINK = 4;
const FEW = { stepMs: 125, dots: 3 };
const LARGE = { stepMs: 600, dots: 1 }; // each step of a dot is drawn by the processor of a phone

/** Devices of a ring in their order; one with both ends, which has two stages, is one of them. */
export function devicesOf(stages) {
  const found = new Map();
  for (const stage of stages) {
    if (!found.has(stage.node)) found.set(stage.node, []);
    found.get(stage.node).push(stage);
  }
  return [...found].map(([name, held]) => ({ name, stages: held, timeMs: sum(held.map(timeOf)) }));
}

function timeOf(stage) {
  return stage.step_ms ?? stage.predicted_ms ?? 0;
}

function sum(values) {
  return values.reduce((total, one) => total + one, 0);
}

/** Where cards are: rows that go to the right and to the left in turn, and a way back along the left side. */
function layout(count, available) {
  const card = count > MANY ? NARROW : WIDE;
  const fit = Math.max(1, Math.floor((available - GUTTER + card.gap) / (card.width + card.gap)));
  let rows = Math.ceil(count / fit);
  if (rows > 1 && rows % 2 && fit > 1) rows += 1; // an even number ends on the left, where the ring is closed
  const columns = Math.max(1, Math.ceil(count / rows));
  const places = Array.from({ length: count }, (_, index) => {
    const row = Math.floor(index / columns);
    const along = index % columns;
    const column = row % 2 ? columns - 1 - along : along;
    return { row, column, x: GUTTER + column * (card.width + card.gap), y: TOP + row * (card.height + card.gap) };
  });
  const width = GUTTER + columns * (card.width + card.gap) - card.gap + 2;
  const height = TOP + Math.ceil(count / columns) * (card.height + card.gap) - card.gap + (count > columns ? 6 : GUTTER);
  return { card, places, width, height };
}

/** The way from one card to the next, and from the last one back to the first. */
function ways({ card, places, height }) {
  const middle = (place) => place.y + card.height / 2;
  const links = places.slice(1).map((to, index) => {
    const from = places[index];
    if (from.row !== to.row) return `M${from.x + card.width / 2} ${from.y + card.height}V${to.y - 4}`;
    const right = to.x > from.x;
    return `M${right ? from.x + card.width : from.x} ${middle(from)}H${right ? to.x - 4 : to.x + card.width + 4}`;
  });
  if (places.length < 2) return links;
  const first = places[0];
  const last = places.at(-1);
  const x = first.x + card.width / 2;
  if (last.row === 0) {
    const low = height - GUTTER / 2;
    const end = last.x + card.width / 2;
    links.push(`M${end} ${last.y + card.height}V${low - 8}Q${end} ${low} ${end - 8} ${low}H${x + 8}Q${x} ${low} ${x} ${low - 8}V${first.y + card.height + 4}`);
  } else if (last.row === 1 && last.column === 0 && places.filter((one) => one.row === 0).length > 1) {
    links.push(`M${x} ${last.y}V${first.y + card.height + 4}`);
  } else {
    const side = 8;
    links.push(`M${last.x} ${middle(last)}H${side + 8}Q${side} ${middle(last)} ${side} ${middle(last) - 8}V${middle(first) + 8}Q${side} ${middle(first)} ${side + 8} ${middle(first)}H${first.x - 4}`);
  }
  return links;
}

export class Ring {
  /** `choose(name)` is called when a device is chosen. */
  constructor(choose) {
    this.choose = choose;
    this.element = s("svg", { class: "ring", role: "group" });
    this.links = s("g", { class: "links" });
    this.cards = s("g", {});
    this.dots = s("g", { class: "dots", "aria-hidden": "true" });
    const head = s("path", { d: "M0 0 8 4 0 8z" });
    const marker = s("marker", { id: `arrow-${Math.random().toString(36).slice(2)}`, markerWidth: 8, markerHeight: 8, refX: 5, refY: 4, orient: "auto", markerUnits: "userSpaceOnUse", class: "arrow" }, head);
    this.arrow = `url(#${marker.id})`;
    this.element.append(s("defs", {}, marker), this.links, this.cards, this.dots);
    this.byName = new Map();
    this.shape = "";
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
  }

  draw(pipeline, nodes, available) {
    const devices = devicesOf(Object.values(pipeline.stages ?? {}));
    this.devices = devices;
    this.streams = pipeline.tokens_per_s > 0 ? Math.max(1, pipeline.open_requests ?? 1) : 0;
    const plan = layout(devices.length, available);
    const shape = JSON.stringify([devices.map((one) => one.name), plan.width, plan.height]);
    if (shape !== this.shape) {
      this.shape = shape;
      this.place(devices, plan);
    }
    const slowest = devices.reduce((most, one) => (one.timeMs > most.timeMs ? one : most), devices[0]);
    const units = pipeline.unit_count ?? Math.max(...devices.flatMap((one) => one.stages.map((stage) => stage.stop)));
    const next = Object.groupBy?.(pipeline.next?.stages ?? [], (stage) => stage.node) ?? {};
    for (const device of devices) {
      const isSlowest = device === slowest && devices.length > 1;
      this.byName.get(device.name).show(device, nodes[device.name] ?? {}, { units, isSlowest, next: next[device.name] ?? [] });
    }
    const told = devices.map((one) => `${nodes[one.name]?.label ?? one.name}: ${unitsOf(one)}`).join(", then ");
    set(this.element, "aria-label", `The way of a token: ${told}, and back to the first.`);
    this.move();
  }

  place(devices, plan) {
    set(this.element, "viewBox", `0 0 ${plan.width} ${plan.height}`);
    set(this.element, "width", plan.width);
    set(this.element, "height", plan.height);
    this.plan = plan;
    const paths = ways(plan).map((d) => s("path", { d, "marker-end": this.arrow }));
    this.links.replaceChildren(...paths);
    this.points = paths.map((path) => {
      const length = path.getTotalLength() / PLACES_ON_LINK;
      return Array.from({ length: PLACES_ON_LINK + 1 }, (_, index) => path.getPointAtLength(index * length));
    });
    clearInterval(this.timer);
    this.timer = undefined;
    const before = this.byName;
    this.byName = new Map(devices.map((device, index) => {
      const card = new Card(device.name, plan.card, plan.places[index], this.choose);
      if (before.get(device.name)?.element.contains(document.activeElement)) queueMicrotask(() => card.element.focus());
      return [device.name, card];
    }));
    this.cards.replaceChildren(...[...this.byName.values()].map((card) => card.element));
  }

  /** Have dots go round while tokens do: they stay on a device for its share of a token's time. */
  move() {
    const pace = this.devices.length > MANY ? LARGE : FEW;
    const wanted = this.streams && !this.still.matches ? Math.min(pace.dots, this.streams) : 0;
    if (!wanted) {
      clearInterval(this.timer);
      this.timer = undefined;
      this.dots.replaceChildren();
      return;
    }
    while (this.dots.children.length > wanted) this.dots.lastChild.remove();
    while (this.dots.children.length < wanted) this.dots.append(s("circle", { r: 5 }));
    this.timer ??= setInterval(() => this.tick(), pace.stepMs);
  }

  tick() {
    if (document.hidden || !this.element.isConnected || this.element.closest("[hidden]")) return;
    const count = this.devices.length;
    const total = sum(this.devices.map((one) => one.timeMs)) || 1;
    const now = performance.now() / Math.max(ROUND_MS, DEVICE_MS * count);
    [...this.dots.children].forEach((dot, number) => {
      let left = (now + number / this.dots.children.length) % 1;
      for (const [index, device] of this.devices.entries()) {
        const stay = 0.6 * (device.timeMs / total);
        if (left < stay || !this.points[index]) {
          const place = this.plan.places[index];
          const x = place.x + (this.plan.card.width * Math.min(1, left / stay || 0));
          set(dot, "cx", x.toFixed(0));
          set(dot, "cy", place.y);
          return;
        }
        left -= stay;
        const hop = 0.4 / count;
        if (left < hop) {
          const point = this.points[index][Math.floor((left / hop) * (PLACES_ON_LINK + 1))];
          set(dot, "cx", point.x.toFixed(0));
          set(dot, "cy", point.y.toFixed(0));
          return;
        }
        left -= hop;
      }
    });
  }
}

export function unitsOf(device) {
  return device.stages.map((stage) => stage.units.replaceAll("-", "–")).join(" and ");
}

class Card {
  constructor(name, card, place, choose) {
    this.name = name;
    this.card = card;
    this.inner = card.width - 24;
    const wide = card === WIDE;
    this.element = s("g", { class: "card", tabindex: "0", role: "button", transform: `translate(${place.x} ${place.y})` });
    this.element.addEventListener("click", () => choose(name));
    this.element.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose(name);
    });
    const text = (kind, x, y, attributes = {}) => s("text", { class: kind, x, y, ...attributes });
    const end = { "text-anchor": "end" };
    this.box = s("rect", { class: "box", width: card.width, height: card.height, rx: 12 });
    this.title = text("name", 12, wide ? 24 : 19);
    this.battery = text("small", card.width - 12, wide ? 24 : 19, end);
    this.units = text("small", 12, wide ? 43 : 35);
    this.heat = text("small", card.width - 12, wide ? 43 : 67, end);
    this.strip = s("g", { transform: `translate(12 ${wide ? 54 : 42})` });
    this.time = text("time", 12, wide ? 88 : 67);
    this.predicted = text("small", card.width - 12, wide ? 88 : 67, end);
    this.badge = s("g", { class: "badge", transform: `translate(${card.width - 74} -10)` },
      s("rect", { width: 64, height: 19, rx: 9.5 }), s("text", { x: 32, y: 13, "text-anchor": "middle" }, "slowest"));
    this.element.append(this.box, this.title, this.battery, this.units, this.heat, this.strip, this.time, this.predicted, this.badge);
  }

  show(device, node, { units, isSlowest, next }) {
    const wide = this.card === WIDE;
    const trouble = node.state && node.state !== "online";
    set(this.element, "class", `card${trouble ? " lost" : ""}${isSlowest ? " slowest" : ""}${node.drained ? " drained" : ""}`);
    const shown = node.label ?? this.name;
    const beside = (text) => (text ? length(text, SMALL) + 8 : 0);
    say(this.title, cut(shown, this.inner - beside(battery(node)), NAME));
    const queue = sum(device.stages.map((stage) => stage.queue ?? 0));
    const hot = node.temperature_c !== undefined ? `${node.temperature_c} °C` : "";
    say(this.battery, battery(node));
    say(this.units, cut(unitsOf(device), this.inner - (wide ? beside(hot) : 0), SMALL));
    say(this.heat, wide || !queue ? hot : "");
    say(this.time, trouble ? node.state : ms(device.timeMs));
    const predicted = sum(device.stages.map((stage) => stage.predicted_ms ?? 0));
    say(this.predicted, queue ? `${queue} wait` : wide ? `${ms(predicted)} planned` : "");
    this.badge.style.display = isSlowest ? "" : "none";
    this.showStrip(device.stages, next, units);
    const said = [unitsOf(device), trouble ? node.state : `${ms(device.timeMs)} a token`, battery(node) && `battery ${battery(node)}`, hot, isSlowest && "the slowest"];
    set(this.element, "aria-label", `${shown}: ${said.filter(Boolean).join(", ")}`);
  }

  /** All units of the model as a bar, and those that the device holds in it; those it gets as an outline. */
  showStrip(stages, next, units) {
    const key = JSON.stringify([stages.map((one) => [one.start, one.stop]), next.map((one) => [one.start, one.stop]), units]);
    if (key === this.stripKey) return;
    this.stripKey = key;
    const bar = (one, kind) => s("rect", {
      class: kind, x: (this.inner * one.start) / units, width: Math.max(3, (this.inner * (one.stop - one.start)) / units), height: 8, rx: 2,
    });
    this.strip.replaceChildren(
      s("rect", { class: "all", width: this.inner, height: 8, rx: 3 }),
      ...stages.map((one) => bar(one, "held")),
      ...next.map((one) => bar(one, "coming")));
  }
}

/** How long a line of text is drawn, whose font is a class's of style.css. */
function length(text, font) {
  ruler.font = font;
  return ruler.measureText(text).width;
}

/** As much of a text as is not longer than that. */
function cut(text, most, font) {
  if (length(text, font) <= most) return text;
  const letters = [...text];
  while (letters.length && length(`${letters.join("")}…`, font) > most) letters.pop();
  return `${letters.join("")}…`;
}
