/* One map over the photograph, with the settings that it was made with above it. */

import { jsonAbout } from "./api.js";
import { AttentionMatrix } from "./attention.js";
import { choice, h } from "./dom.js";
import { decodeArray, Stage } from "./viewer.js";

const NAMES = {
  attention: "Attention",
  rollout: "Rollout",
  relevance: "Relevance",
  gradcam: "Grad-CAM",
  occlusion: "Occlusion",
};
export const FOR_A_CLASS = ["relevance", "gradcam", "occlusion"];
const KEPT = 60; // answers, so that going back and forth asks nothing

const answers = new Map();

/* An answer by its whole question; asked for once. */
async function remembered(key, make) {
  if (answers.has(key)) {
    const found = answers.get(key);
    answers.delete(key);
    answers.set(key, found); // the newest go last
    return found;
  }
  const made = await make();
  answers.set(key, made);
  if (answers.size > KEPT) answers.delete(answers.keys().next().value);
  return made;
}

export class MapPane {
  /* onset(changes) for model, method, layer, head; onpatch(pane, patch, how); onloaded(pane) when what
     it shows is another. */
  constructor(app, { label, onset, onpatch, onloaded }) {
    Object.assign(this, { app, onset, onloaded, result: null, values: null, matrix: null, question: "" });
    this.controls = h("div", { class: "settings" });
    this.place = h("div", { class: "place" });
    this.caption = h("figcaption", {});
    this.root = h("figure", { class: "pane", "aria-label": label }, this.controls, this.place, this.caption);
    this.stage = new Stage(this.place, { interactive: true });
    this.stage.onpatch = (patch, how) => onpatch(this, patch, how);
    this.drawnControls = "";
  }

  settings(model, models, { method, layer, head }) {
    const drawn = JSON.stringify([model.id, method, layer, head, models.length]);
    if (drawn === this.drawnControls) return;
    this.drawnControls = drawn;
    const focused = this.controls.contains(document.activeElement) && document.activeElement.dataset.what;
    const of = method === "attention" ? {} : { disabled: true, title: "Only attention has layers and heads to choose" };
    const name = (id) => models.find((each) => each.id === id).name;
    const heads = [["mean", "mean"], ["max", "max"], ...Array.from({ length: model.heads }, (_, i) => [String(i), String(i)])];
    this.controls.replaceChildren(
      ...[
        models.length > 1 &&
          choice("Model", models.map(({ id }) => [id, name(id)]), model.id, (value) => this.onset({ model: value }), { "data-what": "model" }),
        choice("Method", model.methods.map((each) => [each, NAMES[each] || each]), method, (value) => this.onset({ method: value }), { "data-what": "method" }),
        this.layers(model, layer, of),
        choice("Head", heads, head, (value) => this.onset({ head: value }), { ...of, "data-what": "head" }),
      ].filter(Boolean),
    );
    if (focused) this.controls.querySelector(`[data-what="${focused}"]`)?.focus();
  }

  layers(model, layer, of) {
    const last = model.layers;
    const at = layer === "-1" ? last : Number(layer) + 1;
    const words = (value) => (value === last ? `${value}, the last` : `${value} of ${last}`);
    const said = h("output", {}, words(at));
    const slider = h("input", { type: "range", min: 1, max: last, step: 1, "data-what": "layer", ...of });
    slider.value = String(at);
    slider.setAttribute("aria-valuetext", words(at));
    slider.addEventListener("input", () => {
      const value = Number(slider.value);
      said.textContent = words(value);
      slider.setAttribute("aria-valuetext", words(value));
      // The key of these settings changes with the slider, which must stay under the hand that moves it.
      const chosen = value === last ? "-1" : String(value - 1);
      this.drawnControls = this.drawnControls.replace(JSON.stringify(layer), JSON.stringify(chosen));
      layer = chosen;
      this.onset({ layer: chosen });
    });
    return h("label", { class: "field layer" }, h("span", {}, "Layer ", said), slider);
  }

  /* Ask for the map of these settings, unless it is the one that is there. */
  async load(picture, model, { method, layer, head, target, query, direction }) {
    const attention = method === "attention";
    const parameters = {
      method,
      layer: attention ? layer : null,
      head: attention ? head : null,
      target: FOR_A_CLASS.includes(method) ? target : null,
      query: attention ? query : null,
      direction: attention && query ? direction : null,
    };
    const question = JSON.stringify([picture.key, model.id, parameters]);
    if (question === this.question) return;
    this.question = question;
    // Of another picture or model nothing may stand under this one's name, while it is awaited or where it does not come.
    if (picture !== this.picture || model !== this.model) this.result = null;
    Object.assign(this, { parameters, picture, model });
    this.matrixOf = JSON.stringify([picture.key, model.id, layer, head]);
    if (this.matrix?.of !== this.matrixOf) this.matrix = null;
    this.stop?.abort();
    this.stop = new AbortController();
    const { signal } = this.stop;
    const busy = setTimeout(() => this.root.classList.add("busy"), 120);
    this.root.setAttribute("aria-busy", "true");
    try {
      const options = { parameters, signal, onbusy: () => this.root.classList.add("busy") };
      const [result, image] = await Promise.all([
        remembered(question, () => jsonAbout(picture, model.id, "/api/explain", options)),
        picture.image(),
      ]);
      if (question !== this.question) return;
      Object.assign(this, { result, image, values: decodeArray(result.map) });
      this.onloaded(this);
    } catch (error) {
      if (question !== this.question) return;
      if (!this.result) this.clear();
      const again = () => {
        this.question = "";
        this.app.set({});
      };
      this.app.refused(picture, error, again);
    } finally {
      clearTimeout(busy);
      if (question === this.question) {
        this.root.classList.remove("busy");
        this.root.setAttribute("aria-busy", "false");
      }
    }
  }

  /* The layer's whole attention; null while it is on its way (onloaded tells) and where there is none. */
  attention() {
    if (this.parameters?.method !== "attention" || !this.result) return null;
    if (this.matrix?.of === this.matrixOf) return this.matrix;
    if (this.matrixAsked === this.matrixOf) return null;
    const of = (this.matrixAsked = this.matrixOf);
    const { picture, model, parameters } = this;
    const ask = () => jsonAbout(picture, model.id, "/api/matrix", { parameters: { layer: parameters.layer, head: parameters.head } });
    remembered(`matrix ${of}`, async () => new AttentionMatrix(await ask())).then(
      (matrix) => {
        matrix.of = of;
        if (of === this.matrixOf) {
          this.matrix = matrix;
          this.onloaded(this);
        }
      },
      (error) => {
        this.matrixAsked = "";
        this.app.trouble(error);
      },
    );
    return null;
  }

  /* Show nothing: there is no map of this picture. */
  clear() {
    this.place.hidden = true;
    this.caption.textContent = "";
    this.onloaded(this);
  }

  /* map, scale, described, marked and the look of the overlay; smooth and strength as in viewer.js. */
  show(view) {
    const { size, grid, box } = this.result;
    this.place.hidden = false;
    this.stage.show({ image: this.image, size, grid, box, ...view });
    this.caption.textContent = view.described;
  }
}
