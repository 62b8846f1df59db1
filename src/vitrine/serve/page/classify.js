/* The tab Classify: what the model says of a picture, what it looks at, and whether its answer depends on that. */

import { explainTerms } from "./terms.js";
import { createPredictionPanel } from "./predictions.js";
import { createElement, createRadioGroup } from "./dom.js";
import { PicturePage } from "./picture_page.js";
import { MapPane } from "./pane.js";
import { createExportPanel } from "./export.js";
import { createVerdictPanel } from "./verdict.js";
import { formatProbability, drawColourBar, maxOf, createStrengthSlider, describeValue } from "./viewer.js";

export class ClassifyPage extends PicturePage {
  constructor(app) {
    super(app);
    this.patch = null; // under the pointer: [row, column] as shares of the grid
    this.first = this.createPane("First map", "");
    this.second = null;
    this.panes = createElement("div", { class: "panes" }, this.first.root);
    this.readout = createElement("p", { class: "readout", "aria-live": "polite" });
    this.bar = createElement("div", {});
    this.slider = createStrengthSlider(Number(app.state.strength), (strength) => app.set({ strength: String(strength) }));
    this.tools = createElement("div", { class: "tools" });
    this.answers = createPredictionPanel(app);
    this.exportPanel = createExportPanel(app, () => this.exportViews());
    this.beside = createElement("button", { type: "button", onclick: () => this.toggleSecond() });
    this.instruments = createElement("div", { class: "instruments" }, this.tools, this.bar, this.slider);
    this.pictureArea = createElement(
      "div",
      { class: "picture-area" },
      createElement("div", { class: "heading" }, this.title, this.beside),
      createElement("div", { class: "maps" }, this.panes, this.readout),
      this.instruments,
    );
    this.side = createElement("aside", { class: "side", "aria-label": "What it says" }, this.answers.root, this.first.verdict.root, this.exportPanel.root);
    this.root = createElement("div", { class: "page classify" }, this.tray.root, this.pictureArea, this.side, this.message);
  }

  createPane(label, suffix) {
    const pane = new MapPane(this.app, {
      label,
      onSettings: (changes) => {
        const entries = Object.entries(changes).map(([key, value]) => [key === "model" && suffix ? "beside" : key + (key === "model" ? "" : suffix), value]);
        const layer = "model" in changes ? { [`layer${suffix}`]: "-1", [`head${suffix}`]: "mean" } : {};
        this.app.set({ ...layer, ...Object.fromEntries(entries), ...(suffix ? {} : { query: "" }) }, !("layer" in changes));
      },
      onPatch: (pane, patch, how) => this.onPatch(pane, patch, how),
      onLoad: () => this.draw(),
    });
    pane.verdict = createVerdictPanel(this.app);
    return pane;
  }

  /* Show one map, or two side by side: of another model if there is one, else of this model's first layer. */
  toggleSecond() {
    const { state } = this.app;
    if (state.beside) {
      this.app.set({ beside: "" }, true);
      return;
    }
    const model = this.model(state);
    const other = this.app.classifiers().find((each) => each.id !== model.id);
    const layer2 = other ? state.layer : "0";
    this.app.set({ beside: (other || model).id, layer2: Number(layer2) < (other || model).layers ? layer2 : "-1" }, true);
  }

  model(state) {
    return this.app.model(state.model) || this.app.classifiers()[0] || null;
  }

  async update(state) {
    const model = this.model(state);
    if (!model) {
      this.showMessage("No classifier is served", "Start it with one: vitrine serve RUN, or vitrine serve vitrine/scenes-tiny.");
      return;
    }
    const picture = await this.choosePicture(state, model, "Look inside", "Choose, drop or paste a picture to see what the model makes of it.");
    if (!picture) return;
    const title = createElement("bdi", {}, picture.title); // names from right to left keep to themselves
    this.title.replaceChildren(title, ...(picture.label === null ? [] : [" \u00b7 true label: ", createElement("bdi", {}, picture.label)]));
    this.updatePanes(state, model, picture);
  }

  updatePanes(state, model, picture) {
    const models = this.app.classifiers();
    const other = state.beside ? this.app.model(state.beside) : null;
    const changes = { ...supportedMethod(model, "method", state), ...(other && supportedMethod(other, "method2", state)) };
    if (Object.keys(changes).length) {
      this.app.set(changes);
      return;
    }
    this.beside.textContent = other ? "One map" : "Compare side by side";
    if (other && !this.second) this.second = this.createPane("Second map", "2");
    if (other && !this.second.root.isConnected) {
      this.panes.append(this.second.root);
      this.first.verdict.root.after(this.second.verdict.root);
      this.second.verdict.setHeading("second");
    }
    if (!other && this.second) {
      this.second.verdict.clear();
      this.second.verdict.root.remove();
      this.second.root.remove();
      this.second = null;
    }
    this.first.verdict.setHeading(other ? "first" : "");
    this.panes.classList.toggle("two", Boolean(other));
    this.pictureArea.classList.toggle("one", !other);
    // One map's controls are among the instruments; of two maps, each has its own above it.
    const home = other ? this.first.root : this.instruments;
    if (this.first.controls.parentElement !== home) home.prepend(this.first.controls);
    const { query, direction } = state;
    const target = (secondSettings) => (secondSettings.labels.includes(state.target) ? state.target : "");
    const settings = { method: state.method, layer: state.layer, head: state.head };
    this.first.drawSettings(model, models, settings);
    this.first.load(picture, model, { ...settings, target: target(model), query: query || defaultQuery(model), direction });
    if (other) {
      const secondSettings = { method: state.method2, layer: state.layer2, head: state.head2 };
      const same = String(other.grid) === String(model.grid);
      this.second.drawSettings(other, models, secondSettings);
      this.second.load(picture, other, { ...secondSettings, target: target(other), query: (same && query) || defaultQuery(other), direction });
    }
    this.drawTools(state);
    this.draw();
  }

  drawTools({ method, over, patches, contour, query }) {
    const key = JSON.stringify([method, over, patches, contour, query]);
    if (key === this.toolsKey) return;
    this.toolsKey = key;
    const focusedValue = this.tools.contains(document.activeElement) ? document.activeElement.value : null;
    const box = createElement("input", { type: "checkbox", onchange: () => this.app.set({ patches: box.checked ? "1" : "" }) });
    box.checked = patches === "1";
    const line = createElement("input", { type: "checkbox", onchange: () => this.app.set({ contour: line.checked ? "1" : "" }) });
    line.checked = contour === "1";
    const options = [
      ["from", "what a patch attends to"],
      ["to", "who attends to it"],
      ["value", "the map\u2019s values"],
    ];
    this.tools.replaceChildren(
      ...[
        method === "attention" && createRadioGroup("Move over the picture to see", options, over, (value) => this.app.set({ over: value })),
        createElement("label", { class: "tick-box" }, box, "patches as they are"),
        createElement("label", { class: "tick-box" }, line, method === "occlusion" ? "line at no effect" : "line at uniform"),
        query && createElement("button", { type: "button", onclick: () => this.app.set({ query: "", direction: "from" }, true) }, "Back to the model\u2019s own map"),
      ].filter(Boolean),
    );
    if (focusedValue) this.tools.querySelector(`[value="${focusedValue}"]`)?.focus();
  }

  /* The pointer or the arrow keys are on a patch of either map. */
  onPatch(pane, patch, how) {
    const { state } = this.app;
    if (how === "press") {
      if (!patch || !this.first.result || state.method !== "attention" || state.over === "value") return;
      // Of the first pane's grid, whichever pane was pressed.
      const query = patch.map((at, axis) => Math.floor(((at + 0.5) / pane.result.grid[axis]) * this.first.result.grid[axis])).join(",");
      const again = query === state.query && state.over === state.direction;
      this.app.set(again ? { query: "", direction: "from" } : { query, direction: state.over }, true);
      return;
    }
    this.patch = patch && pane.result ? patch.map((at, axis) => (at + 0.5) / pane.result.grid[axis]) : null;
    this.draw();
  }

  /* What each pane shows now: its map, or that of the patch under the pointer. */
  views() {
    const { state } = this.app;
    const panes = [this.first, this.second].filter((pane) => pane?.result && pane.image);
    return panes.map((pane) => {
      const { grid, scale, described } = pane.result;
      const patch = this.patch && this.patch.map((share, axis) => Math.floor(share * grid[axis]));
      const followsPointer = patch && state.over !== "value" && pane.parameters.method === "attention";
      const matrix = followsPointer ? pane.attention() : null;
      const selectedPatch = pane.parameters.query?.includes(",") ? pane.parameters.query.split(",").map(Number) : null;
      const outliers = selectedPatch || patch ? [] : pane.verdict.outliers(pane);
      // The frame is around the patch that looks; one whose value is read has an outline.
      const view = { pane, outliers, patch, outlines: patch && !matrix ? [patch] : outliers, query: matrix ? patch : selectedPatch };
      if (!matrix) return { ...view, map: pane.values, scale, described };
      const at = `row ${patch[0]}, column ${patch[1]}`;
      const description = state.over === "from" ? `What the patch in ${at} attends to` : `Who attends to the patch in ${at}`;
      return { ...view, map: matrix.map(patch, state.over), scale: matrix.scale(state.over), described: description };
    });
  }

  draw() {
    const { state } = this.app;
    const views = this.views();
    const panes = [this.first, this.second].filter(Boolean);
    const isEmpty = (pane) => !pane.result && pane.place.hidden; // its map did not come
    for (const pane of panes.filter(isEmpty)) pane.verdict.clear();
    if (isEmpty(this.first) || this.first.result) this.answers.update(isEmpty(this.first) ? [] : panes.filter((pane) => pane.result));
    this.exportPanel.update();
    if (!views.length) return;
    const { size } = views[0].pane.result;
    this.pictureArea.style.setProperty("--aspect", String(size[0] / size[1]));
    const kinds = new Set(views.map(({ scale }) => scale.kind));
    const high = Math.max(...views.map(({ scale }) => scale.high));
    const look = { strength: Number(state.strength), smooth: state.patches !== "1", contour: state.contour === "1" };
    for (const view of views) {
      const scale = kinds.size === 1 ? { ...view.scale, high } : view.scale;
      view.displayScale = scale;
      view.pane.show({ map: view.map, scale, described: view.described, outlines: view.outlines, query: view.query, ...look });
    }
    this.drawBar(views, kinds.size === 1);
    this.readout.replaceChildren(...this.describeReadout(views));
    for (const { pane, displayScale, patch } of views) {
      const isOfPatch = Boolean(patch) && state.over !== "value" && pane.parameters.method === "attention";
      pane.verdict.setOtherMap(isOfPatch ? patch : null);
      if (!this.patch) pane.verdict.update(pane, displayScale);
    }
  }

  drawBar(views, same) {
    const bars = same ? [[views[0].displayScale, Math.max(...views.map(({ map }) => maxOf(map)))]] : views.map(({ displayScale, map }) => [displayScale, maxOf(map)]);
    while (this.bar.children.length > bars.length) this.bar.lastChild.remove();
    while (this.bar.children.length < bars.length) this.bar.append(createElement("div", {}));
    this.bar.className = "bars";
    bars.forEach(([scale, maximum], index) => {
      const place = this.bar.children[index];
      const key = JSON.stringify([scale, maximum.toPrecision(3)]);
      if (place.dataset.key === key) return;
      place.dataset.key = key;
      drawColourBar(place, scale, maximum);
    });
  }

  describeReadout(views) {
    const { state } = this.app;
    const [{ pane, map, scale, patch }] = views;
    if (patch) {
      const value = describeValue(pane.values, pane.result.grid, pane.result.scale, patch);
      const followsPointer = state.over !== "value" && pane.parameters.method === "attention";
      if (!followsPointer) return views.map((each) => createElement("span", {}, `${describeValue(each.map, each.pane.result.grid, each.scale, each.patch)}. `));
      const words = state.over === "from" ? "What it attends to" : "Who attends to it";
      const hint = this.app.state.query ? "" : " Click to keep it.";
      return [createElement("strong", {}, words), ` \u00b7 ${value}, itself ${describeValue(map, pane.result.grid, scale, patch).split(": ")[1]}.${hint}`];
    }
    const share = pane.result.prefix_share;
    const prefixNote = share === null || share === undefined ? "" : ` ${formatProbability(share)} of the attention is on ${pane.model.prefix_words}, not on patches; colours show the rest.`;
    const unitsNote = views.length > 1 && views[0].scale.kind !== views[1].scale.kind ? " The two maps have different units, and a scale each." : "";
    const placeholderNote = pane.picture.isPlaceholder ? " This browser cannot show this format: the photograph is a grey sheet." : "";
    const outlierNote = views.some(({ outliers }) => outliers.length) ? " Outlined: outlier tokens, whose place says little." : "";
    return explainTerms(prefixNote + outlierNote + unitsNote + placeholderNote);
  }

  exportViews() {
    const panes = [this.first, this.second].filter((pane) => pane?.result);
    return panes.map(({ picture, model, parameters, result }, index) => ({
      picture,
      model: model.id,
      parameters: { ...parameters, figure: "map" },
      command: result.command,
      name: `${picture.stem}-${parameters.method}${index ? "-beside" : ""}`,
    }));
  }
}

/* The query if the address names none: "" is what the model's head reads; where that is not known the patch in the
   middle is asked. */
function defaultQuery({ queries, grid }) {
  return queries.includes("auto") ? "" : grid.map((size) => Math.floor(size / 2)).join(",");
}

/* The change that replaces a method that the model cannot give; empty if it can. */
function supportedMethod({ methods }, key, state) {
  return methods.length && !methods.includes(state[key]) ? { [key]: methods[0] } : {};
}
