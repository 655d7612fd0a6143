// Elements as calls: h("button", { class: "quiet", onclick: stop }, "Stop").

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Set an attribute, or a text, only where it is another one: what is unchanged is not drawn again. */
export function set(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A button that can't be pressed twice while what it does goes on; errors are shown by `failed`. */
export function button(words, action, failed, attributes = {}) {
  const made = h("button", { type: "button", ...attributes }, words);
  made.addEventListener("click", async () => {
    made.disabled = true;
    try {
      await action();
    } catch (error) {
      failed(error);
    } finally {
      made.disabled = false;
    }
  });
  return made;
}

export function notice(words, kind = "") {
  return h("p", { class: `notice ${kind}`, role: kind === "bad" ? "alert" : "status" }, words);
}

/** What tells an error in an element, in place of what is there. */
export function failedIn(element) {
  return (error) => element.replaceChildren(notice(error.message, "bad"));
}

/** A table; `rows` are `tr` elements. */
export function grid(heads, rows, attributes = {}) {
  return h("table", attributes,
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, rows));
}

/** A line to type, with a button that copies it. */
export function line(text) {
  const copied = h("button", { type: "button", class: "quiet", "aria-label": "Copy the line" }, "Copy");
  const code = h("code", { tabindex: "0" }, text);
  copied.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copied.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code); // no clipboard outside https and this machine: it can be copied by hand
    }
  });
  return h("div", { class: "line" }, code, copied);
}

/** Ask before what can't be undone; resolves to whether it is to be done. */
export function confirmed(question, yes) {
  const dialog = document.getElementById("dialog");
  return new Promise((resolve) => {
    const close = (answer) => () => {
      dialog.close();
      resolve(answer);
    };
    dialog.setAttribute("aria-label", question);
    dialog.replaceChildren(
      h("p", {}, question),
      h("div", { class: "row end" },
        h("button", { type: "button", class: "quiet", onclick: close(false) }, "Cancel"),
        h("button", { type: "button", class: "bad", onclick: close(true) }, yes)));
    dialog.oncancel = () => resolve(false);
    if (dialog.open) dialog.close();
    dialog.showModal();
  });
}

/** What a screen reader is to say. */
export function announce(words) {
  document.getElementById("said").textContent = words;
}
