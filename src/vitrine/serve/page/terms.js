/* Terms that a page explains where they appear: underlined with dots, and told to whoever points at them, reaches them
   with the keyboard, or listens. */

import { createElement } from "./dom.js";

let meanings = {}; // by term: the list of vitrine.report.glossary, which reports have at their end

export function setTerms(terms) {
  meanings = terms;
}

/* A text as nodes, in which each term is explained where it stands first. */
export function explainTerms(text) {
  const places = Object.entries(meanings)
    .map(([term, meaning]) => ({ term, meaning, at: text.search(new RegExp(`\\b${term.replace("-", "\\-")}`)) }))
    .filter(({ at }) => at >= 0)
    .sort((a, b) => a.at - b.at);
  const nodes = [];
  let end = 0;
  for (const { term, meaning, at } of places) {
    if (at < end) continue;
    nodes.push(text.slice(end, at), createTerm(term.replace(" =", ""), meaning));
    end = at + term.replace(" =", "").length;
  }
  return [...nodes, text.slice(end)].filter((node) => node !== "");
}

/* A term with its meaning. */
export function createTerm(text, meaning) {
  return createElement("span", { class: "term", tabindex: "0", "data-meaning": meaning, "aria-description": meaning }, text);
}
