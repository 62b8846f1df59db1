/* What the models say of the picture: labels with their probabilities. They come with every map; nothing is asked. */

import { h } from "./dom.js";
import { FOR_A_CLASS } from "./pane.js";
import { chance } from "./viewer.js";

const TOP = 5; // labels at first

export function answersPanel(app) {
  const root = h("section", { class: "answers", "aria-label": "Prediction" });
  let all = false;
  let asked = "";
  let drawn = "";

  /* panes whose map is there, of one model or two; none where there is no answer. */
  function update(panes) {
    if (!panes.length) {
      drawn = "";
      root.replaceChildren();
      return;
    }
    const [first, second] = panes;
    const question = `${first.picture.key} ${first.model.id}`;
    if (question !== asked) all = false;
    asked = question;
    const said = second && second.model.id !== first.model.id ? panes : [first];
    const choosing = FOR_A_CLASS.includes(app.state.method);
    const wanted = JSON.stringify([said.map((pane) => [pane.picture.key, pane.model.id]), choosing, app.state.target, all]);
    if (wanted === drawn) return;
    drawn = wanted;
    const { model, result } = first;
    const expand = () => {
      all = !all;
      update(panes);
    };
    const words = all ? `The first ${TOP} only` : `All ${result.predictions.length} labels`;
    root.replaceChildren(
      ...said.flatMap((pane) => [
        h("h2", { class: "eyebrow" }, said.length > 1 ? `${pane.model.name} says` : "It says"),
        list(pane, choosing),
      ]),
      ...[
        choosing && h("p", { class: "small grey" }, "Choose a label to see the map for it."),
        result.predictions.length > TOP && h("button", { type: "button", class: "quiet", "aria-expanded": String(all), onclick: expand }, words),
        h("p", { class: "small grey" }, `${model.reference} \u00b7 ${model.precision} \u00b7 sha256 ${(model.weights_sha256 || "").slice(0, 12)}`),
        ...model.notes.map((note) => h("p", { class: "small grey place" }, note)),
      ].filter(Boolean),
    );
  }

  function list({ picture, model, result: { predictions } }, choosing) {
    const best = predictions[0].label;
    const chosen = model.labels.includes(app.state.target) ? app.state.target : best;
    return h(
      "ol",
      { class: "predictions" },
      predictions.slice(0, all ? undefined : TOP).map(({ label, probability }) => {
        const right = picture.label !== null && picture.label === label;
        const row = [
          h("span", { class: "label" }, label, right && h("span", { class: "true", title: "the picture\u2019s own label" }, " \u2713")),
          h("span", { class: "number" }, chance(probability)),
          h("span", { class: "share", css: { "--share": probability }, "aria-hidden": "true" }),
        ];
        if (!choosing) return h("li", {}, h("div", { class: "answer" }, row));
        const press = () => app.set({ target: label === best ? "" : label }, true);
        return h("li", {}, h("button", { type: "button", class: "answer", "aria-pressed": String(label === chosen), onclick: press }, row));
      }),
    );
  }

  return { root, update };
}
