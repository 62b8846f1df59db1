/* Terms that a page explains where they appear: underlined with dots, and told to whoever points at them, reaches them
   with the keyboard, or listens. */

import { createElement } from "./dom.js";

const MEANINGS = [
  ["class token", "A token beside those of the patches. It stands for no place in the picture; the answer is often read from it."],
  ["distillation token", "A second class token, which learned from another model."],
  ["register token", "A token beside those of the patches, which the model uses as scratch paper."],
  ["outlier tokens", "Patches whose inner numbers are far larger than those of the others. Models use them as scratch paper: attention to them says little about what lies there."],
  ["log-probability", "The natural logarithm of a probability: 0 is certain, \u22120.7 is one in two, \u22124.6 one in a hundred."],
  ["uniform", "What every patch would have if the map were the same everywhere: 2 \u00d7 uniform is twice as much."],
  ["position embeddings", "What the model adds to a patch to know where it lies."],
  ["untrained embeddings", "Random ones of the same size: what chance alone would give."],
  ["fixed 2-D sine embedding", "Positions by a formula instead of training: waves of many lengths over rows and columns."],
  ["p =", "How often random patches do at least as well as the marked ones. A small value says that it is no accident."],
  ["median", "The middle one of all values in order: half lie below it, half above."],
];

/* A text as nodes, in which each term is explained where it stands first. */
export function explainTerms(text) {
  const places = MEANINGS.map(([term, meaning]) => ({ term, meaning, at: text.search(new RegExp(`\\b${term.replace("-", "\\-")}`)) }))
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
