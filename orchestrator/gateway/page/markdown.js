// Markdown to elements. What a model writes is no page of ours: it is cleaned, and fetches nothing.

import { marked } from "./vendor/marked.js";
import "./vendor/purify.js";

const cleaner = globalThis.DOMPurify;
const OPTIONS = {
  RETURN_DOM_FRAGMENT: true,
  USE_PROFILES: { html: true },
  FORBID_TAGS: ["img", "picture", "source", "video", "audio", "style", "form", "input", "button", "textarea", "select", "dialog"],
  FORBID_ATTR: ["style", "class", "id", "name", "srcset", "background"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
};

cleaner.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
  if (node.tagName === "PRE" || node.tagName === "TABLE") node.setAttribute("tabindex", "0"); // they scroll sideways
});

export function markdown(text) {
  return cleaner.sanitize(marked.parse(text, { gfm: true, breaks: true, async: false }), OPTIONS);
}
