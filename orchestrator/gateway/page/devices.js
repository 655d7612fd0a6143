// Devices: who belongs to the fleet, who is invited, and how another one comes in.

import { get, post } from "./api.js";
import { button, confirmed, failedIn, grid, h, line, notice, s } from "./dom.js";
import { called, drainOf, fleet, watch } from "./live.js";
import { rename } from "./rename.js";
import { rights } from "./rights.js";
import { ago, clock } from "./text.js";

const ROLES = {
  node: "lends itself", client: "asks questions", operator: "asks and commands", "home-assistant": "shows the fleet in a home",
};
const NAMES = "A name has letters, digits, “.”, “_” and “-”, 64 at most; a letter or a digit comes first.";
let section, list, door, told, invited;

export const devices = { make, shown: load };

function make(into) {
  section = into;
  list = h("div", { class: "wide members" });
  door = h("div", { class: "row" });
  told = h("div", {});
  invited = h("div", { class: "invited", "aria-live": "polite" });
  section.append(h("h1", { id: "devices-title" }, "Devices"),
    h("div", { class: "panel stack" }, h("h2", {}, "Invite a device"), invite(), invited),
    h("div", { class: "panel stack" }, h("h2", {}, "Members"), told, list, door));
  let nodes = "";
  watch(() => {
    const now = Object.entries(fleet.picture.nodes ?? {}).map(([name, node]) => `${name} ${node.label ?? ""} ${node.state} ${node.drained ? drainOf(name) : ""}`).join("\n");
    if (section.hidden || now === nodes) return;
    nodes = now;
    load();
  });
}

function invite() {
  if (!rights.members) {
    return h("div", { class: "stack" },
      h("p", { class: "muted" }, "Invitations are made on the fleet's host, where this gateway does not run, or for who may command. Type there:"),
      line("linguabus invite my-phone --phone --qr"));
  }
  const name = h("input", {
    id: "invite-name", required: true, maxlength: "64", pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", placeholder: "kitchen-phone", autocomplete: "off",
    title: NAMES, "aria-describedby": "invite-names",
  });
  const role = h("select", { id: "invite-role" }, Object.entries(ROLES).map(([value, words]) => h("option", { value }, words)));
  const installs = h("input", { type: "checkbox", id: "invite-phone", checked: true });
  const again = h("input", { type: "checkbox", id: "invite-again" });
  const minutes = h("select", { id: "invite-expires" }, [["900", "15 minutes"], ["3600", "an hour"], ["86400", "a day"]].map(([value, words]) => h("option", { value }, words)));
  role.addEventListener("change", () => {
    installs.disabled = role.value !== "node";
  });
  async function send(event) {
    event.preventDefault();
    try {
      show(await post("/api/fleet/members/invite", {
        name: name.value.trim(), role: role.value, expires_s: Number(minutes.value), again: again.checked,
        phone: installs.checked && role.value === "node",
      }));
      await load();
    } catch (error) {
      failedIn(invited)(error);
    }
  }
  return h("form", { class: "stack", onsubmit: send },
    h("div", { class: "row" }, h("label", {}, "Its name", name), h("label", {}, "What it does", role), h("label", {}, "Good for", minutes)),
    h("p", { class: "muted", id: "invite-names" }, NAMES),
    h("div", { class: "row" },
      h("label", { class: "check" }, installs, "it has no linguabus yet (Termux, Debian): the line installs it"),
      h("label", { class: "check" }, again, "it is a member that has lost its key")),
    h("div", { class: "row" }, h("button", { class: "main" }, "Invite")));
}

function show({ name, expires_at: ends, line: text, squares, ends_another: endsAnother }) {
  invited.replaceChildren(
    h("div", { class: "ticket" }, code(squares, `QR code of the line for ${name}`),
      h("div", { class: "stack" },
        h("p", {}, "On ", h("strong", {}, name), `, until ${clock(ends)}, once:`), line(text),
        endsAnother ? h("p", { class: "muted" }, "The line that it was invited by before is not good any more.") : null,
        h("p", { class: "muted" }, "Point its camera at the code, or paste the line. Whoever has it can join under this name."))));
}

/** A QR code as one path, dark on white whatever the page's colours are: readers want that. */
function code(squares, label) {
  const quiet = 4;
  const side = squares.length + 2 * quiet;
  const dark = squares.flatMap((row, y) => [...row].map((one, x) => (one === "1" ? `M${x + quiet} ${y + quiet}h1v1h-1z` : ""))).join("");
  return s("svg", { class: "qr", viewBox: `0 0 ${side} ${side}`, role: "img", "aria-label": label, "shape-rendering": "crispEdges" },
    s("rect", { width: side, height: side, fill: "#fff" }), s("path", { d: dark, fill: "#000" }));
}

async function load() {
  const nodes = fleet.picture.nodes ?? {};
  let roll = { members: Object.keys(nodes).map((name) => ({ name, role: "node" })), invited: [], door: null };
  if (rights.members) {
    try {
      roll = await get("/api/fleet/members");
    } catch (error) {
      failedIn(told)(error);
      return;
    }
  }
  drawDoor(roll);
  const failed = failedIn(told);
  const heads = ["device", "what it does", "state", "last seen", h("span", { class: "unseen" }, "what can be done")];
  const rows = [...roll.members.map((member) => row(member, nodes[member.name], failed)), ...roll.invited.map((one) => waiting(one, roll.members.some((member) => member.name === one.name), failed))];
  list.replaceChildren(grid(heads, rows));
}

function row(member, node, failed) {
  const state = node ? (node.drained ? drainOf(member.name) : node.state) : "";
  const shown = called(member.name);
  const drain = node && rights.commands ? button(node.drained ? "Restore" : "Drain", () => post("/api/fleet/drain", { node: member.name, undo: Boolean(node.drained) }), failed, { "aria-label": `${node.drained ? "Let it have layers" : "Drain"} ${shown}` }) : null;
  const another = node && rights.commands ? button("Rename", () => rename(member.name), failed, { "aria-label": `Rename ${shown}` }) : null;
  const own = member.role === "orchestrator" || member.role === "operator";
  return h("tr", {}, h("th", { scope: "row" }, shown, shown === member.name ? null : h("div", { class: "muted" }, member.name)), h("td", {}, ROLES[member.role] ?? member.role),
    h("td", { class: "state" }, state ? [h("span", { class: `dot ${state === "online" ? "good" : "warn"}` }), state] : ""),
    h("td", {}, member.seen_at ? ago(member.seen_at) : ""),
    h("td", { class: "row end" }, another, drain, rights.members && !own ? revoke(member.name, failed) : null));
}

function waiting(one, isMember, failed) {
  return h("tr", {}, h("th", { scope: "row" }, one.name), h("td", {}, ROLES[one.role] ?? one.role),
    h("td", {}, one.waits ? "the door is shut" : "invited"), h("td", {}, `until ${clock(one.expires_at)}`),
    h("td", { class: "row end" }, (isMember ? revoke : withdraw)(one.name, failed))); // with the invitation a membership ends, too
}

function revoke(name, failed) {
  return end(name, "Revoke", `Revoke ${called(name)}? It needs a new invitation to come back.`, `${called(name)} is no member any more`, failed);
}

function withdraw(name, failed) {
  return end(name, "Withdraw", `Withdraw the invitation of ${name}? Its line and its code are not good any more then.`, `${name} is not invited any more`, failed);
}

function end(name, words, question, done, failed) {
  return button(words, async () => {
    if (!(await confirmed(question, words))) return;
    await post("/api/fleet/members/revoke", { name });
    told.replaceChildren(notice(done, "good"));
    await load();
  }, failed, { class: "quiet", "aria-label": `${words} ${name}` });
}

function drawDoor({ door: state, invited: waits }) {
  if (!state || !waits.length) {
    door.replaceChildren();
    return;
  }
  const turn = (open) => button(open ? "Open the door" : "Shut the door", async () => {
    await post("/api/fleet/members/door", { open_s: open ? 900 : null });
    await load();
  }, failedIn(told));
  door.replaceChildren(h("span", { class: "muted" }, state.open ? `The door is open until ${clock(state.open_until)}, for who is invited.` : "The door is shut."), turn(!state.open));
}
