/* The tab Features: what a model's patches are to it, without any class. Principal components as colours, or regions, fitted
   jointly to the pictures of the tray; and how alike the patch under the pointer is to all others, in every picture. */

import { explainTerms } from "./terms.js";
import { isAbortError, requestJson } from "./api.js";
import { createSelect, createElement, createRadioGroup } from "./dom.js";
import { createLayerSlider } from "./layer_slider.js";
import { PicturePage } from "./picture_page.js";
import { createExportPanel } from "./export.js";
import { decodeArray, drawColourBar, drawPatches, formatNumber, loadPhotograph, maxOf, Stage } from "./viewer.js";

const OUTLIER = [138, 147, 156]; // as in features/figures.py
const BACKGROUND = [241, 243, 245];
const COMPONENTS = [["first", "#d62728"], ["second", "#2ca02c"], ["third", "#1f77b4"]];
const MAX_MAPS = 400; // answers that are kept: of that many patches

function decodeBytes({ data }) {
  return Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
}

/* Patches in their own colours, where they lie on the photograph. */
class ColourStage extends Stage {
  draw() {
    if (!this.view || this.canvas.width < 2) return;
    const { image, grid, ...options } = this.view;
    drawPatches(this.canvas, image, { ...options, rows: grid[0], columns: grid[1] });
  }
}

/* One picture: its photograph, over which similarities are painted, and beside it its patches' colours. */
class FeaturePair {
  /* onPatch(pair, patch, how) as of a Stage. */
  constructor({ interactive, onPatch }) {
    this.root = createElement("figure", { class: interactive ? "pair large" : "pair" });
    const stages = createElement("div", { class: "two-stages" });
    this.photo = new Stage(stages, { maximum: interactive ? 900 : 360 });
    this.colours = new ColourStage(stages, { interactive, maximum: interactive ? 900 : 360 });
    this.caption = createElement("figcaption", {});
    this.root.append(stages, this.caption);
    for (const stage of [this.photo, this.colours]) stage.onPatch = (patch, how) => onPatch(this, patch, how);
  }

  setPicture(picture, image, info, grid) {
    Object.assign(this, { picture, image, info, grid });
    this.bytes = decodeBytes(info.colours);
    this.regions = info.regions && decodeBytes(info.regions);
    this.foreground = info.foreground && decodeBytes(info.foreground);
  }

  /* The colour of each patch: of its components, or of its region. */
  patchColours(regionColours) {
    const outliers = new Set(this.info.outliers.map(([row, column]) => row * this.grid[1] + column));
    return Array.from({ length: this.grid[0] * this.grid[1] }, (_, i) => {
      if (this.regions) return regionColours[this.regions[i]];
      if (outliers.has(i)) return OUTLIER;
      return this.foreground && !this.foreground[i] ? BACKGROUND : this.bytes.subarray(3 * i, 3 * i + 3);
    });
  }

  /* similarity: a map or null; query: the patch that is asked about if it is in this picture, else null. */
  show({ similarity, query, scale, regionColours, described }) {
    const { image, grid, info } = this;
    const place = { image, grid, size: info.size, box: info.box };
    const best = similarity && !query ? similarity.indexOf(maxOf(similarity)) : -1;
    const marks = { query, outlines: best < 0 ? [] : [[Math.floor(best / grid[1]), best % grid[1]]] };
    const paintMap = similarity && similarity.map((value) => Math.max(value, scale.low)); // below it there is no paint
    this.photo.show({ ...place, ...marks, map: paintMap, scale, smooth: false, described: similarity ? `Cosine similarity, ${this.picture.title}` : `Photograph ${this.picture.title}` });
    this.colours.show({ ...place, ...marks, colours: this.patchColours(regionColours), described });
    const value = best < 0 ? "" : ` \u00b7 ${formatNumber(Number(similarity[best].toFixed(2)))}`;
    this.caption.replaceChildren(createElement("bdi", {}, this.picture.title), value);
  }
}

export class FeaturesPage extends PicturePage {
  constructor(app) {
    super(app);
    this.maps = new Map(); // similarities by question, the newest last
    this.sentKeys = new Set(); // own pictures that the server has
    this.hover = null; // {pair, patch} under the pointer
    const onPatch = (pair, patch, how) => this.onPatch(pair, patch, how);
    this.createPair = (interactive) => new FeaturePair({ interactive, onPatch });
    this.first = this.createPair(true);
    this.first.colours.canvas.setAttribute("aria-describedby", "features-help");
    this.first.colours.canvas.addEventListener("keydown", ({ key }) => key === "Escape" && this.app.set({ like: "" }));
    this.others = [];
    this.settings = createElement("div", { class: "settings" });
    this.readout = createElement("p", { class: "readout", "aria-live": "polite" });
    this.grid = createElement("div", { class: "pairs" });
    this.gridHeading = createElement("h2", { class: "eyebrow" }, "In the other pictures");
    this.legend = createElement("section", { class: "legend", "aria-label": "What the colours mean" });
    this.bar = createElement("div", {});
    this.exportPanel = createExportPanel(app, () => this.exportViews());
    const help = "Move over a patch, or tab to the colours and use the arrow keys: purple is what is like it, in all pictures on this one scale. A click, or Enter, keeps it; Escape lets go.";
    this.area = createElement("div", { class: "feature-area" }, this.first.root, this.readout, this.gridHeading, this.grid);
    this.root = createElement(
      "div",
      { class: "page features" },
      this.tray.root,
      createElement("div", { class: "picture-area" }, createElement("div", { class: "heading" }, this.title), this.settings, this.area),
      createElement(
        "aside",
        { class: "side", "aria-label": "What it means" },
        this.legend,
        createElement("section", { "aria-label": "Similarity" }, createElement("h2", { class: "eyebrow" }, "Alike"), this.bar, createElement("p", { class: "small grey", id: "features-help" }, help)),
        this.exportPanel.root,
      ),
      this.message,
    );
  }

  model(state) {
    return this.app.model(state.model)?.kind === "classifier" ? this.app.model(state.model) : this.app.classifiers()[0] || null;
  }

  async update(state) {
    const model = this.model(state);
    if (!model) {
      this.showMessage("No classifier is served", "Start it with one: vitrine serve RUN, or vitrine serve vitrine/scenes-tiny.");
      return;
    }
    const picture = await this.choosePicture(state, model, "Patch features", "Choose, drop or paste a picture to see what the model's patches are to it.");
    if (!picture) return;
    this.title.replaceChildren(createElement("bdi", {}, picture.title));
    const others = state.alone ? [] : await this.otherPictures(model, picture);
    if (this.app.state !== state) return;
    this.drawSettings(model, state);
    const { layer, foreground, regions } = state;
    const parameters = { layer: Number(layer) < model.layers ? layer : "-1", foreground: foreground && !regions ? "true" : null, regions: regions || null };
    const question = JSON.stringify([picture.key, model.id, parameters, others.map(({ key }) => key)]);
    if (question === this.question) {
      this.draw();
      return;
    }
    this.question = question;
    this.load(picture, others, model, parameters, question);
  }

  /* The other pictures of the tray, as many as the server fits together. */
  async otherPictures(model, picture) {
    const samples = await Promise.all(this.app.sampleKeys(model).map((key) => this.app.findPicture(key)));
    const all = [...this.app.ownPictures, ...samples].filter((each) => each && each.key !== picture.key);
    return all.slice(0, this.app.featurePictures - 1);
  }

  drawSettings(model, { layer, foreground, regions, alone }) {
    const keyOf = (ofLayer) => JSON.stringify([model.id, ofLayer, foreground, regions, alone]);
    if (keyOf(layer) === this.settingsKey) return;
    this.settingsKey = keyOf(layer);
    const active = document.activeElement;
    const focus = this.settings.contains(active) ? active.dataset.what || active.value : null;
    const models = this.app.classifiers();
    const box = createElement("input", { type: "checkbox", "data-what": "foreground", onchange: () => this.app.set({ foreground: box.checked ? "1" : "" }) });
    box.checked = foreground === "1";
    const changeLayer = (value) => {
      this.settingsKey = keyOf(value); // the slider must stay under the hand that moves it
      this.app.set({ layer: value });
    };
    const counts = Array.from({ length: 9 }, (_, i) => [String(i + 2), String(i + 2)]);
    this.settings.replaceChildren(
      ...[
        models.length > 1 && createSelect("Model", models.map(({ id, name }) => [id, name]), model.id, (value) => this.app.set({ model: value, layer: "-1", like: "" }, true), { "data-what": "model" }),
        createLayerSlider(model.layers, Number(layer) < model.layers ? layer : "-1", changeLayer),
        createRadioGroup("Colours", [["components", "components"], ["regions", "regions"]], regions ? "regions" : "components", (value) => this.app.set({ regions: value === "regions" ? "4" : "" })),
        regions && createSelect("Regions", counts, regions, (value) => this.app.set({ regions: value }), { "data-what": "regions" }),
        createRadioGroup("Fitted to", [["all", "all pictures"], ["alone", "this one"]], alone ? "alone" : "all", (value) => this.app.set({ alone: value === "alone" ? "1" : "" })),
        !regions && createElement("label", { class: "tick-box" }, box, "foreground only"),
      ].filter(Boolean),
    );
    if (focus) this.settings.querySelector(`[data-what="${focus}"], [value="${focus}"]`)?.focus();
  }

  async load(picture, others, model, parameters, question) {
    this.abortController?.abort();
    this.abortController = new AbortController();
    const { signal } = this.abortController;
    if (picture !== this.first.picture || model !== this.shownModel) this.clear();
    const busy = setTimeout(() => this.area.classList.add("busy"), 120);
    try {
      const answer = await this.requestFeatures(picture, others, model, parameters, signal);
      const byReference = new Map([[picture.key, picture], ...others.map((each) => [this.reference(each, model), each])]);
      const pictures = answer.pictures.map(({ reference }, index) => (index ? byReference.get(reference) : picture));
      const images = await Promise.all(pictures.map((each, index) => (index && each.sample ? loadPhotograph(each.thumbnail(288)) : each.image())));
      if (question !== this.question) return;
      this.setResult(answer, pictures, images, model, parameters);
    } catch (error) {
      if (isAbortError(error) || question !== this.question) return;
      const retry = () => {
        this.question = "";
        this.app.set({});
      };
      this.app.handlePictureError(picture, error, retry);
    } finally {
      clearTimeout(busy);
      if (question === this.question) this.area.classList.remove("busy");
    }
  }

  /* The name of a picture in a request about others: a sample's, or the sha256 of one that the server has. */
  reference(picture, model) {
    return picture.sample ? picture.key : picture.sha256 || picture.serverHashes.get(`features ${model.id}`) || "";
  }

  /* Own pictures are sent one by one, as a request has one picture; the server forgets them when others push them out. */
  async requestFeatures(picture, others, model, parameters, signal) {
    const keptAs = `features ${model.id}`;
    for (let attempt = 1; ; attempt += 1) {
      for (const each of others.filter(({ sample }) => !sample)) {
        if (this.sentKeys.has(`${model.id} ${each.key}`)) continue;
        await requestJson(each, model.id, "/api/features", { parameters: { layer: parameters.layer }, signal, keptAs });
        this.sentKeys.add(`${model.id} ${each.key}`);
      }
      const names = others.map((each) => this.reference(each, model)).filter(Boolean);
      try {
        return await requestJson(picture, model.id, "/api/features", { parameters: { ...parameters, others: names.join(",") }, signal, keptAs });
      } catch (error) {
        if (error.code !== "gone" || attempt > 1) throw error;
        this.sentKeys.clear();
        for (const each of others) each.serverHashes.delete(keptAs);
      }
    }
  }

  setResult(answer, pictures, images, model, parameters) {
    Object.assign(this, { result: answer, shownModel: model, parameters, hover: null });
    this.regionColours = answer.region_colours.map((colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)));
    this.scale = { kind: "own", low: answer.lowest, high: 1, label: "cosine similarity" };
    this.first.setPicture(pictures[0], images[0], answer.pictures[0], answer.grid);
    while (this.others.length < pictures.length - 1) this.others.push(this.createPair(false));
    this.others.length = pictures.length - 1;
    this.others.forEach((pair, i) => pair.setPicture(pictures[i + 1], images[i + 1], answer.pictures[i + 1], answer.grid));
    this.grid.replaceChildren(...this.others.map(({ root }) => root));
    this.gridHeading.hidden = !this.others.length;
    this.first.root.hidden = false;
    this.drawLegend();
    drawColourBar(this.bar, this.scale, 1);
    this.draw();
    this.exportPanel.update();
  }

  /* Show nothing: there is no answer for this picture yet. */
  clear() {
    this.result = null;
    this.others = [];
    this.first.root.hidden = this.gridHeading.hidden = true;
    this.grid.replaceChildren();
    this.readout.replaceChildren();
    this.exportPanel.update();
  }

  drawLegend() {
    const { described, variance_shares: shares, pictures } = this.result;
    const count = pictures.length === 1 ? "this picture alone" : `${pictures.length} pictures`;
    const outliers = pictures.reduce((sum, { outliers: each }) => sum + each.length, 0);
    const swatch = (colour) => createElement("span", { class: "swatch", css: { "--colour": colour }, "aria-hidden": "true" });
    const percent = (share) => `${(100 * share).toFixed(0)} %`;
    const rows = this.result.region_colours.length
      ? this.result.region_colours.map((colour, i) => [colour, `region ${i}`])
      : COMPONENTS.slice(0, shares.length).map(([name, colour], i) => [colour, `${name}, ${percent(shares[i])} of the variance`]);
    const notes = [
      `Patch tokens of ${described}, fitted to ${count}: one colour means one thing in all of them.`,
      this.result.region_colours.length ? "Regions by k-means, the largest first." : "The first three principal components as red, green and blue.",
      outliers ? `${outliers} outlier tokens, left out of what was fitted${this.result.region_colours.length ? "" : ", are grey"}.` : "",
      pictures[0].foreground ? "Pale: background." : "",
    ];
    this.legend.replaceChildren(
      createElement("h2", { class: "eyebrow" }, "Colours"),
      createElement("ul", { class: "swatches" }, rows.map(([colour, text]) => createElement("li", {}, swatch(colour), text))),
      ...notes.filter(Boolean).map((note) => createElement("p", { class: "small grey" }, explainTerms(note))),
    );
  }

  /* The patch that is compared: under the pointer, else the one that was kept. */
  get comparison() {
    if (this.hover) return this.hover;
    const patch = this.app.state.like.split(",").map(Number);
    const isValid = patch.length === 2 && patch.every((at, axis) => Number.isInteger(at) && at >= 0 && at < this.result.grid[axis]);
    return isValid ? { pair: this.first, patch } : null;
  }

  onPatch(pair, patch, how) {
    if (!this.result) return;
    if (how === "press") {
      const like = patch ? patch.join(",") : "";
      const isAgain = pair === this.first && like === this.app.state.like;
      this.hover = null;
      this.app.set({ picture: pair.picture.key, like: isAgain ? "" : like }, true);
      return;
    }
    this.hover = patch && { pair, patch };
    this.draw();
  }

  /* The maps of a patch in all pictures, [of the first, of the others…]; null while they are on their way. */
  similarities({ pair, patch }) {
    const key = JSON.stringify([this.question, pair.picture.key, patch]);
    if (this.maps.has(key)) return this.maps.get(key);
    this.wantedMaps = { key, pair, patch, pairs: [this.first, ...this.others] };
    this.fetchWanted();
    return null;
  }

  /* One request at a time, and then the newest wish: the pointer is faster than any network. */
  async fetchWanted() {
    if (this.isFetching) return;
    this.isFetching = true;
    while (this.wantedMaps) {
      const { key, pair, patch, pairs } = this.wantedMaps;
      this.wantedMaps = null;
      const others = pairs.filter((each) => each !== pair);
      const parameters = { layer: this.result.layer, patch: patch.join(","), others: others.map(({ info }) => info.picture).join(",") };
      try {
        const keptAs = `features ${this.shownModel.id}`;
        pair.picture.serverHashes.set(keptAs, pair.info.picture);
        const { maps } = await requestJson(pair.picture, this.shownModel.id, "/api/similarity", { parameters, keptAs });
        const byPair = new Map([pair, ...others].map((each, i) => [each, decodeArray(maps[i])]));
        this.maps.set(key, pairs.map((each) => byPair.get(each)));
        if (this.maps.size > MAX_MAPS) this.maps.delete(this.maps.keys().next().value);
        this.draw();
      } catch (error) {
        this.wantedMaps = null;
        this.hover = null;
        if (error.code === "gone") this.question = ""; // the pictures were pushed out: send them again
        this.app.showError(error, () => this.app.set({}));
      }
    }
    this.isFetching = false;
  }

  draw() {
    if (!this.result) return;
    const comparison = this.comparison;
    const maps = comparison && this.similarities(comparison);
    if (comparison && !maps) return; // the last maps stay until the next have come
    const { grid } = this.result;
    [this.first, ...this.others].forEach((pair, i) => {
      const query = comparison && comparison.pair === pair ? comparison.patch : null;
      const described = pair === this.first ? `Colours of ${grid[0]} by ${grid[1]} patches of ${pair.picture.title}. Arrow keys move between patches.` : `Colours of the patches of ${pair.picture.title}`;
      pair.show({ similarity: maps && maps[i], query, scale: this.scale, regionColours: this.regionColours, described });
    });
    this.gridHeading.textContent = comparison ? "In the other pictures: outlined is what is most alike" : "In the other pictures";
    this.readout.replaceChildren(...this.describeReadout(comparison, maps));
    this.exportPanel.update();
  }

  describeReadout(comparison, maps) {
    if (!comparison) return ["No patch is compared."];
    const { pair, patch } = comparison;
    const pairs = [this.first, ...this.others];
    const own = maps[pairs.indexOf(pair)];
    const descending = [...own].sort((a, b) => b - a);
    const where = `Row ${patch[0]}, column ${patch[1]}${pair === this.first ? "" : ` of ${pair.picture.title}`}`;
    const next = descending.length > 1 ? ` \u00b7 most alike in its own picture: ${formatNumber(Number(descending[1].toFixed(2)))}` : "";
    const hint = this.hover && pair === this.first && patch.join(",") !== this.app.state.like ? ". Click to keep it." : "";
    return [createElement("strong", {}, where), `${next}${hint}`];
  }

  exportViews() {
    if (!this.result) return [];
    const { like } = this.app.state;
    const others = this.others.map(({ info }) => info.picture).join(",");
    const parameters = { figure: "features", ...this.parameters, others, patch: like };
    return [{ picture: this.first.picture, model: this.shownModel.id, parameters, command: like ? "" : this.result.command, name: `${this.first.picture.stem}-features` }];
  }
}
