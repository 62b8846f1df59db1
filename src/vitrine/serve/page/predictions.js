/* The panel of predictions: labels with their probabilities, which come with every map and need no request. */

import { createElement } from "./dom.js";
import { hasOption } from "./pane.js";
import { formatProbability } from "./viewer.js";

const TOP = 5; // labels that are shown at first

export function createPredictionPanel(app) {
  const root = createElement("section", { class: "answers", "aria-label": "Prediction" });
  let showsAll = false;
  let currentQuestion = "";
  let currentKey = "";

  /* panes: those whose map has come, of one model or two; empty if there is none. */
  function update(panes) {
    if (!panes.length) {
      currentKey = "";
      root.replaceChildren();
      return;
    }
    const [first, second] = panes;
    const question = `${first.picture.key} ${first.model.id}`;
    if (question !== currentQuestion) showsAll = false;
    currentQuestion = question;
    const panesWithAnswers = second && second.model.id !== first.model.id ? panes : [first];
    const canChoose = hasOption(first.model, app.state.method, "target");
    const key = JSON.stringify([panesWithAnswers.map((pane) => [pane.picture.key, pane.model.id]), canChoose, app.state.target, showsAll]);
    if (key === currentKey) return;
    currentKey = key;
    const { model, result } = first;
    const toggleAll = () => {
      showsAll = !showsAll;
      update(panes);
    };
    const text = showsAll ? `The first ${TOP} only` : `All ${result.predictions.length} labels`;
    root.replaceChildren(
      ...panesWithAnswers.flatMap((pane) => [
        createElement("h2", { class: "eyebrow" }, panesWithAnswers.length > 1 ? `${pane.model.name} says` : "It says"),
        createList(pane, canChoose),
      ]),
      ...[
        canChoose && createElement("p", { class: "small grey" }, "Choose a label to see the map for it."),
        result.predictions.length > TOP && createElement("button", { type: "button", class: "quiet", "aria-expanded": String(showsAll), onclick: toggleAll }, text),
        createElement("p", { class: "small grey" }, `${model.reference} \u00b7 ${model.precision} \u00b7 sha256 ${(model.weights_sha256 || "").slice(0, 12)}`),
        ...model.notes.map((note) => createElement("p", { class: "small grey place" }, note)),
      ].filter(Boolean),
    );
  }

  function createList({ picture, model, result: { predictions } }, canChoose) {
    const best = predictions[0].label;
    const target = model.labels.includes(app.state.target) ? app.state.target : best;
    return createElement(
      "ol",
      { class: "predictions" },
      predictions.slice(0, showsAll ? undefined : TOP).map(({ label, probability }) => {
        const isTrue = picture.label !== null && picture.label === label;
        const row = [
          createElement("span", { class: "label", dir: "auto" }, label, isTrue && createElement("span", { class: "true", title: "the picture\u2019s own label" }, " \u2713")),
          createElement("span", { class: "number" }, formatProbability(probability)),
          createElement("span", { class: "share", css: { "--share": probability }, "aria-hidden": "true" }),
        ];
        if (!canChoose) return createElement("li", {}, createElement("div", { class: "answer" }, row));
        const choose = () => app.set({ target: label === best ? "" : label }, true);
        return createElement("li", {}, createElement("button", { type: "button", class: "answer", "aria-pressed": String(label === target), onclick: choose }, row));
      }),
    );
  }

  return { root, update };
}
