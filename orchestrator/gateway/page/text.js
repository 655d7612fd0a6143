// Figures as people read them.

export function figure(value, digits = 1) {
  return value === undefined || value === null ? "–" : value.toLocaleString("en", {
    minimumFractionDigits: digits, maximumFractionDigits: digits,
  });
}

export function ms(value) {
  if (value === undefined || value === null) return "–";
  return value >= 1000 ? `${figure(value / 1000, 1)} s` : `${figure(value, value < 10 ? 1 : 0)} ms`;
}

export function size(bytes) {
  for (const [unit, factor] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (bytes >= factor) return `${figure(bytes / factor, bytes >= 100 * factor ? 0 : 1)} ${unit}`;
  }
  return `${bytes} bytes`;
}

export function age(seconds) {
  for (const [name, long] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * long) return `${Math.round(seconds / long)} ${name}`;
  }
  return `${Math.max(0, Math.round(seconds))} s`;
}

export function ago(atS) {
  return `${age(Date.now() / 1000 - atS)} ago`;
}

export function clock(atS) {
  const at = new Date(atS * 1000);
  const today = new Date().toDateString() === at.toDateString();
  const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  return today ? time : `${at.toLocaleDateString()} ${time}`;
}

export function battery(node) {
  if (node.battery_percent === undefined) return "";
  return `${node.charging ? "⚡" : ""}${node.battery_percent} %`;
}

export function percent(share) {
  const whole = Math.round(share * 100);
  return `${whole > 0 ? "+" : whole < 0 ? "−" : ""}${figure(Math.abs(whole), 0)} %`;
}

/** Units [start, stop) of a model of so many: "embed, blocks 0–9, head". */
export function unitsText(start, stop, count) {
  const first = Math.max(start, 1) - 1; // decoder blocks are counted from 0
  const last = Math.min(stop, count - 1) - 2;
  const blocks = last > first ? [`blocks ${first}–${last}`] : last === first ? [`block ${first}`] : [];
  return [...(start === 0 ? ["embed"] : []), ...blocks, ...(stop === count ? ["head"] : [])].join(", ");
}
