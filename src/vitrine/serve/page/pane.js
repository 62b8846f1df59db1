/* A pane with one map over the photograph, and controls for its model, method, layer and head. */

import { requestJson } from "./api.js";
import { AttentionMatrix } from "./attention.js";
import { createSelect, createElement } from "./dom.js";
import { createLayerSlider } from "./layer_slider.js";
import { decodeArray, Stage } from "./viewer.js";

/* Whether a method of a model has an option: what /api/models says. */
export function hasOption(model, method, option) {
  return (model.method_options[method] || []).includes(option);
}

const MAX_ANSWERS = 60; // kept, so that going back and forth requests nothing

const answers = new Map();

/* An answer by its key, requested once. */
async function getOrFetch(key, fetchAnswer) {
  if (answers.has(key)) {
    const answer = answers.get(key);
    answers.delete(key);
    answers.set(key, answer); // the newest come last
    return answer;
  }
  const answer = await fetchAnswer();
  answers.set(key, answer);
  if (answers.size > MAX_ANSWERS) answers.delete(answers.keys().next().value);
  return answer;
}

export class MapPane {
  /* onSettings(changes) is called for model, method, layer, head; onPatch(pane, patch, how) for the pointer;
     onLoad(pane) when the map has changed. */
  constructor(app, { label, onSettings, onPatch, onLoad }) {
    Object.assign(this, { app, onSettings, onLoad, result: null, values: null, matrix: null, question: "" });
    this.controls = createElement("div", { class: "settings" });
    this.place = createElement("div", { class: "place" });
    this.caption = createElement("figcaption", {});
    this.root = createElement("figure", { class: "pane", "aria-label": label }, this.controls, this.place, this.caption);
    this.stage = new Stage(this.place, { interactive: true });
    this.stage.onPatch = (patch, how) => onPatch(this, patch, how);
    this.controlsKey = "";
  }

  drawSettings(model, models, { method, layer, head }) {
    const controlsKey = JSON.stringify([model.id, method, layer, head, models.length]);
    if (controlsKey === this.controlsKey) return;
    this.controlsKey = controlsKey;
    const focusedControl = this.controls.contains(document.activeElement) && document.activeElement.dataset.what;
    const attributes = (option) => (hasOption(model, method, option) ? {} : { disabled: true, title: `${this.app.titles[method]} has no ${option} to choose` });
    const name = (id) => models.find((each) => each.id === id).name;
    const heads = [["mean", "mean"], ["max", "max"], ...Array.from({ length: model.heads }, (_, i) => [String(i), String(i)])];
    this.controls.replaceChildren(
      ...[
        models.length > 1 &&
          createSelect("Model", models.map(({ id }) => [id, name(id)]), model.id, (value) => this.onSettings({ model: value }), { "data-what": "model" }),
        createSelect("Method", model.methods.map((each) => [each, this.app.titles[each]]), method, (value) => this.onSettings({ method: value }), { "data-what": "method" }),
        this.createLayerSlider(model, layer, attributes("layer")),
        createSelect("Head", heads, head, (value) => this.onSettings({ head: value }), { ...attributes("heads"), "data-what": "head" }),
      ].filter(Boolean),
    );
    if (focusedControl) this.controls.querySelector(`[data-what="${focusedControl}"]`)?.focus();
  }

  createLayerSlider(model, layer, attributes) {
    const change = (newLayer) => {
      // The key of these settings changes with the slider, which must stay under the hand that moves it.
      this.controlsKey = this.controlsKey.replace(JSON.stringify(layer), JSON.stringify(newLayer));
      layer = newLayer;
      this.onSettings({ layer: newLayer });
    };
    return createLayerSlider(model.layers, layer, change, attributes);
  }

  /* Request the map of these settings, unless it is shown already. */
  async load(picture, model, { method, layer, head, target, query, direction }) {
    const ofMethod = (option, value) => (hasOption(model, method, option) ? value : null);
    const parameters = {
      method,
      layer: ofMethod("layer", layer),
      head: ofMethod("heads", head),
      target: ofMethod("target", target),
      query: ofMethod("query", query),
      direction: query ? ofMethod("direction", direction) : null,
    };
    const question = JSON.stringify([picture.key, model.id, parameters]);
    if (question === this.question) return;
    this.question = question;
    // No map of another picture or model may stand under this one's name while it is awaited, or if it does not come.
    if (picture !== this.picture || model !== this.model) this.result = null;
    Object.assign(this, { parameters, picture, model });
    this.matrixKey = JSON.stringify([picture.key, model.id, layer, head]);
    if (this.matrix?.key !== this.matrixKey) this.matrix = null;
    this.abortController?.abort();
    this.abortController = new AbortController();
    const { signal } = this.abortController;
    const busy = setTimeout(() => this.root.classList.add("busy"), 120);
    this.root.setAttribute("aria-busy", "true");
    try {
      const options = { parameters, signal, onBusy: () => this.root.classList.add("busy") };
      const [result, image] = await Promise.all([
        getOrFetch(question, () => requestJson(picture, model.id, "/api/explain", options)),
        picture.image(),
      ]);
      if (question !== this.question) return;
      Object.assign(this, { result, image, values: decodeArray(result.map) });
      this.onLoad(this);
    } catch (error) {
      if (question !== this.question) return;
      if (!this.result) this.clear();
      const retry = () => {
        this.question = "";
        this.app.set({});
      };
      this.app.handlePictureError(picture, error, retry);
    } finally {
      clearTimeout(busy);
      if (question === this.question) {
        this.root.classList.remove("busy");
        this.root.setAttribute("aria-busy", "false");
      }
    }
  }

  /* The layer's whole attention; null while it is on its way (onLoad is called) and if there is none. */
  attention() {
    if (this.parameters?.method !== "attention" || !this.result) return null;
    if (this.matrix?.key === this.matrixKey) return this.matrix;
    if (this.requestedMatrixKey === this.matrixKey) return null;
    const key = (this.requestedMatrixKey = this.matrixKey);
    const { picture, model, parameters } = this;
    const fetchMatrix = () => requestJson(picture, model.id, "/api/matrix", { parameters: { layer: parameters.layer, head: parameters.head } });
    getOrFetch(`matrix ${key}`, async () => new AttentionMatrix(await fetchMatrix())).then(
      (matrix) => {
        matrix.key = key;
        if (key === this.matrixKey) {
          this.matrix = matrix;
          this.onLoad(this);
        }
      },
      (error) => {
        this.requestedMatrixKey = "";
        this.app.showError(error);
      },
    );
    return null;
  }

  /* Show nothing: there is no map of this picture. */
  clear() {
    this.place.hidden = true;
    this.caption.textContent = "";
    this.onLoad(this);
  }

  /* view: map, scale, described, outlines, smooth and strength as in viewer.js. */
  show(view) {
    const { size, grid, box } = this.result;
    this.place.hidden = false;
    this.stage.show({ image: this.image, size, grid, box, ...view });
    this.caption.textContent = view.described;
  }
}
