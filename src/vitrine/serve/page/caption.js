/* The tab Caption: words as they are decoded, each with its map; alternatives to each word; the beams. A vision-language
   model is asked a question, and the maps of its answer's words are of the layers that are chosen. */

import { explainTerms } from "./terms.js";
import { requestWithPicture, readEvents, isAbortError } from "./api.js";
import { sharedHigh } from "./attention.js";
import { createSelect, createElement, createRadioGroup } from "./dom.js";
import { createLayerSlider } from "./layer_slider.js";
import { PicturePage } from "./picture_page.js";
import { createExportPanel } from "./export.js";
import { formatProbability, decodeArray, maxOf, formatNumber, WordViewer } from "./viewer.js";

const MAX_RESULTS = 20;
const ANSWER_TIMEOUT = 1300; // seconds for a vision-language model to read a question and to answer it
const COSTS = {
  attention: "What each word attended to: it costs nothing beside the answer.",
  relative: "Attention divided by that of a neutral prompt on the same picture: the picture is read once more.",
  gradient: "Attention times the positive gradient of the word\u2019s logit: one more pass over the whole answer, forwards and back.",
  occlusion: "By how much a word\u2019s log-probability falls when a cell is covered: the picture is read as many times as the map has cells.",
};
const AFTER_DECODING = ["gradient", "occlusion"]; // readings that need the whole answer
const WITHOUT_LAYERS = ["occlusion"];

/* A word of the API as viewer.js takes it. */
function toViewerWord(word) {
  return { ...word, particular: word.looked !== false, sentence: word.check };
}

export class CaptionPage extends PicturePage {
  constructor(app) {
    super(app);
    this.results = new Map();
    this.settings = createElement("div", { class: "settings" });
    this.question = createElement("textarea", { rows: 2, maxlength: 2000, name: "prompt" });
    this.askButton = createElement("button", { type: "submit", class: "primary" }, "Ask");
    this.stopButton = createElement("button", { type: "button", onclick: () => this.stop() }, "Stop");
    this.form = this.createForm();
    this.maps = createElement("div", { class: "settings" });
    this.cost = createElement("p", { class: "small grey", "aria-live": "polite" });
    this.notes = createElement("div", {});
    this.place = createElement("div", { class: "caption-area" });
    this.alternatives = createElement("section", { class: "alternatives", "aria-label": "Alternatives" });
    this.beams = createElement("section", { class: "beams", "aria-label": "Beams" });
    this.exportPanel = createExportPanel(app, () => this.exportViews());
    this.root = createElement(
      "div",
      { class: "page caption" },
      this.tray.root,
      createElement("div", { class: "picture-area" }, createElement("div", { class: "heading" }, this.title, this.settings), this.form, this.place, this.notes, this.maps, this.cost),
      createElement("aside", { class: "side", "aria-label": "What else it could have said" }, this.alternatives, this.beams, this.exportPanel.root),
      this.message,
    );
  }

  /* The question: Enter asks, Shift and Enter begin a new line. */
  createForm() {
    const ask = (event) => {
      event.preventDefault();
      const prompt = this.question.value.trim();
      this.app.set({ prompt, prefix: "", word: "" }, true);
      if (this.isStopped) this.askAgain();
    };
    this.question.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.form.requestSubmit();
    });
    const field = createElement("label", { class: "field" }, createElement("span", {}, "Question"), this.question);
    return createElement("form", { class: "question", hidden: true, onsubmit: ask }, field, createElement("div", { class: "buttons" }, this.askButton, this.stopButton));
  }

  askAgain() {
    this.shownQuestion = "";
    this.app.set({});
  }

  /* Give the answer up: the server stops computing, and the words that have come stay. */
  stop() {
    this.isStopped = true;
    this.abortController?.abort();
    this.setBusy(false);
    this.notes.replaceChildren(createElement("p", { class: "small grey" }, "Stopped. Ask goes on from the beginning."));
  }

  setBusy(isBusy) {
    this.place.classList.toggle("busy", isBusy);
    this.stopButton.disabled = !isBusy;
  }

  async update(state) {
    const models = this.app.captioners();
    const model = this.app.model(state.captioner)?.kind === "captioner" ? this.app.model(state.captioner) : models[0];
    if (!model) {
      this.showMessage("No captioner is served", "Start it with one: vitrine serve RUN, where RUN was trained on captions.");
      return;
    }
    const picture = await this.choosePicture(state, model, "Captions", "Choose, drop or paste a picture to have it described, word by word.");
    if (!picture) return;
    this.title.replaceChildren(createElement("bdi", {}, picture.title));
    this.drawSettings(models, model, state);
    this.drawQuestion(model, state);
    const question = JSON.stringify([picture.key, model.id, this.parametersOf(model, state)]);
    if (question === this.shownQuestion) {
      this.followState(state);
      return;
    }
    this.shownQuestion = question;
    this.requestCaption(picture, model, state, question);
  }

  /* What the caption depends on beside picture and model. */
  parametersOf(model, { beams, prefix, prompt, layers, reading }) {
    if (model.prompt === null) return { beams, prefix };
    return { beams, prefix, prompt, layers: WITHOUT_LAYERS.includes(reading) ? "-1" : layers, reading };
  }

  /* What the server keeps the picture under: with a question it is another encoding. */
  keptAs(model, { prompt, reading }) {
    return model.prompt === null ? model.id : JSON.stringify([model.id, prompt, reading === "relative"]);
  }

  /* The question and the choice of maps, of a model that takes them. */
  drawQuestion(model, { prompt, layers, reading }) {
    const takesQuestion = model.prompt !== null;
    this.form.hidden = this.maps.hidden = this.cost.hidden = !takesQuestion;
    if (!takesQuestion) return;
    this.question.placeholder = model.prompt;
    if (prompt !== this.askedPrompt) this.question.value = this.askedPrompt = prompt;
    const key = JSON.stringify([model.id, layers, reading]);
    if (key === this.mapsKey) return;
    this.mapsKey = key;
    this.cost.textContent = COSTS[reading];
    const hasLayers = !WITHOUT_LAYERS.includes(reading);
    const box = createElement("input", { type: "checkbox", disabled: !hasLayers, onchange: () => this.app.set({ layers: box.checked ? "mean" : "-1" }) });
    box.checked = hasLayers && layers === "mean";
    const attributes = hasLayers ? (box.checked ? { disabled: true, title: "The mean of all layers is shown" } : {}) : { disabled: true, title: "This reading looks at no layer" };
    const focusedReading = this.maps.contains(document.activeElement) && document.activeElement.type === "radio" ? document.activeElement.value : null;
    this.maps.replaceChildren(
      createLayerSlider(model.layers, box.checked ? "-1" : layers, (value) => this.changeLayer(model, value, reading), attributes),
      createElement("label", { class: "tick-box" }, box, "mean of all layers"),
      createRadioGroup("Maps by", model.readings.map((each) => [each, each]), reading, (value) => this.app.set({ reading: value }, true)),
    );
    if (focusedReading) this.maps.querySelector(`[value="${focusedReading}"]`)?.focus(); // arrow keys go on
  }

  /* The layer once the slider rests, which must stay under the hand that moves it: the words stay, their maps are others. */
  changeLayer(model, layers, reading) {
    clearTimeout(this.layerTimer);
    this.mapsKey = JSON.stringify([model.id, layers, reading]);
    this.layerTimer = setTimeout(() => this.app.set({ layers }), 150);
  }

  drawSettings(models, model, { beams }) {
    const key = JSON.stringify([model.id, beams]); // the search alone: a question has a form of its own
    if (key === this.settingsKey) return;
    this.settingsKey = key;
    const focusedValue = this.settings.contains(document.activeElement) ? document.activeElement.value : null;
    const options = [["1", "greedy"], ["3", "3 beams"], ["5", "5 beams"]];
    this.settings.replaceChildren(
      ...[
        models.length > 1 && createSelect("Model", models.map(({ id, name }) => [id, name]), model.id, (captioner) => this.app.set({ captioner, prefix: "", word: "" }, true)),
        createRadioGroup("Search", options, beams, (value) => this.app.set({ beams: value, prefix: "", word: "" }, true)),
      ].filter(Boolean),
    );
    if (focusedValue) this.settings.querySelector(`[value="${focusedValue}"]`)?.focus();
  }

  async requestCaption(picture, model, state, question) {
    this.abortController?.abort();
    this.abortController = new AbortController();
    const { signal } = this.abortController;
    this.result = null;
    this.words = [];
    this.isStopped = false;
    this.alternatives.replaceChildren();
    this.beams.replaceChildren();
    this.notes.replaceChildren();
    this.exportPanel.update();
    Object.assign(this, { picture, model });
    this.setBusy(true);
    try {
      const image = await picture.image();
      const storedResult = this.results.get(question);
      if (storedResult) {
        await this.createViewer(image, storedResult, question);
        await this.finish(storedResult, state);
        return;
      }
      const options = { parameters: { ...this.parametersOf(model, state), stream: true }, signal, keptAs: this.keptAs(model, state) };
      if (model.prompt !== null) options.timeout = ANSWER_TIMEOUT;
      const response = await requestWithPicture(picture, model.id, "/api/caption", options);
      for await (const { event, data } of readEvents(response)) {
        if (question !== this.shownQuestion) return;
        if (event === "error") throw Object.assign(new Error(data.error), { status: 500 });
        if (event === "word") await this.addWord(image, data, question);
        if (event === "progress") this.noteReading(`The answer is whole; its maps are made: ${data.done} of ${data.total} cells.`);
        if (event === "done") {
          if (data.picture) picture.serverHashes.set(options.keptAs, data.picture);
          this.results.set(question, data);
          if (this.results.size > MAX_RESULTS) this.results.delete(this.results.keys().next().value);
          if (!this.viewer || this.viewer.question !== question) await this.createViewer(image, data, question);
          await this.finish(data, this.app.state);
        }
      }
      if (!this.result && question === this.shownQuestion) throw Object.assign(new Error(`The ${this.noun} broke off before its end.`), { status: 500 });
    } catch (error) {
      if (isAbortError(error) || question !== this.shownQuestion) return;
      const retry = () => this.askAgain();
      const hasBroken = error.name === "TypeError"; // the stream's own error, in words that differ from browser to browser
      this.app.handlePictureError(picture, hasBroken ? Object.assign(new Error("The connection to the server broke off."), { status: 0 }) : error, retry);
    } finally {
      if (question === this.shownQuestion) this.setBusy(false);
    }
  }

  /* A viewer for a new caption, without words yet. */
  async createViewer(image, { size, grid = [1, 1], box = [0, 0, ...size], scale }, question) {
    const root = createElement("figure", { class: "viewer" });
    const defaultScale = { kind: "uniform", high: 2, label: "multiple of uniform" };
    const strength = Number(this.app.state.strength);
    this.viewer = new WordViewer(root, { photograph: image, size, grid, box, scale: scale || defaultScale, words: [], strength });
    this.viewer.question = question;
    this.viewer.onSelect = (index, isPinned) => this.onWordSelected(index, isPinned);
    this.place.replaceChildren(root);
    await this.viewer.ready;
  }

  async addWord(image, word, question) {
    if (!this.viewer || this.viewer.question !== question) {
      await this.createViewer(image, { ...word, size: word.size || [image.width, image.height] }, question);
      this.place.classList.remove("busy"); // the words themselves say from here on that more comes
    }
    this.viewer.isFollowing = true; // shows each word as it comes
    this.words.push(word);
    const { reading } = this.app.state;
    if (this.words.length === 1 && AFTER_DECODING.includes(reading) && this.model.prompt !== null) {
      const cells = reading === "occlusion" ? ` They take ${word.grid[0] * word.grid[1]} readings of the picture.` : "";
      this.noteReading(`Until the answer is whole, its words show attention; maps by ${reading} follow.${cells}`);
    }
    const maps = this.words.map((each) => decodeArray(each.map));
    this.viewer.data.scale = { ...this.viewer.data.scale, high: sharedHigh(maps) };
    this.viewer.add(toViewerWord(word));
  }

  noteReading(words) {
    this.notes.replaceChildren(createElement("p", { class: "small grey", role: "status" }, words));
  }

  /* Show the whole caption, for which the scale and the checks of its words are known now. */
  async finish(result, state) {
    this.result = result;
    const { viewer } = this;
    viewer.isFollowing = false;
    Object.assign(viewer.data, { size: result.size, grid: result.grid || viewer.data.grid, box: result.box || viewer.data.box, scale: result.scale });
    viewer.clear();
    this.words = result.words;
    for (const word of result.words) viewer.add(toViewerWord(word));
    viewer.stage.show({ size: result.size });
    const last = result.words.length - 1;
    const peaks = this.viewer.words.map(({ values, particular }) => (particular ? maxOf(values) : 0));
    const selection = state.word === "" ? peaks.indexOf(Math.max(...peaks)) : Math.min(Number(state.word), last);
    if (last >= 0) viewer.pin(Math.max(0, selection));
    this.drawBeams(result);
    this.notes.replaceChildren(...(this.model.prompt === null ? [] : [result.described, ...result.notes].map((note) => createElement("p", { class: "small grey" }, explainTerms(note)))));
    this.exportPanel.update();
    this.setBusy(false);
    if (last < 0) this.alternatives.replaceChildren(createElement("p", { class: "grey" }, `The model ended the ${this.noun} before its first word.`));
  }

  followState({ word }) {
    if (!this.result || word === "" || Number(word) === this.viewer.pinnedIndex) return;
    if (Number(word) < this.result.words.length) this.viewer.pin(Number(word));
  }

  onWordSelected(index, isPinned) {
    this.drawAlternatives(index);
    if (isPinned && this.result && String(index) !== this.app.state.word) this.app.set({ word: String(index) });
  }

  drawAlternatives(index) {
    const word = this.words[index];
    if (!word || this.alternativesWord === word) return;
    this.alternativesWord = word;
    // An alternative's pieces are the whole caption up to its own end; what comes after is decoded greedily.
    const continueFrom = ({ pieces }) => this.app.set({ prefix: pieces.join(","), beams: "1", word: "" }, true);
    const row = (text, probability) => [
      createElement("span", { class: "label", dir: "auto" }, text),
      createElement("span", { class: "number" }, formatProbability(probability)),
      createElement("span", { class: "share", css: { "--share": probability }, "aria-hidden": "true" }),
    ];
    const others = (word.alternatives || []).map((each) =>
      createElement("li", {}, createElement("button", { type: "button", class: "answer", title: `Continue the ${this.noun} from here`, onclick: () => continueFrom(each) }, row(each.text, each.probability))),
    );
    this.alternatives.replaceChildren(
      createElement("h2", { class: "eyebrow" }, `In place of \u201c${word.text}\u201d`),
      createElement("ol", { class: "predictions" }, createElement("li", {}, createElement("div", { class: "answer said" }, row(word.text, word.probability))), others),
      createElement("p", { class: "small grey" }, others.length ? `Choose one, and the ${this.noun} continues from there.` : "Beam search keeps no alternatives word by word."),
      ...(word.check ? [createElement("p", { class: "small grey" }, word.check)] : []),
    );
  }

  drawBeams({ beams, caption, log_probability: logProbability }) {
    const list = beams?.length > 1 ? beams : [{ caption, log_probability: logProbability }];
    const createLogProbability = (value) => createElement("span", { class: "small grey number" }, explainTerms(`log-probability ${formatNumber(Number(value.toFixed(2)))}`));
    const items = list.map((beam) => createElement("li", { "aria-current": beam.caption === caption ? "true" : null }, beam.caption, createLogProbability(beam.log_probability)));
    const showOriginal = () => this.app.set({ prefix: "", word: "" }, true);
    this.beams.replaceChildren(
      createElement("h2", { class: "eyebrow" }, list.length > 1 ? "Beams" : `The whole ${this.noun}`),
      createElement("ol", { class: list.length > 1 ? "beam-list" : "beam-list single" }, items),
      ...(this.app.state.prefix ? [createElement("button", { type: "button", onclick: showOriginal }, "As the model would have it")] : []),
    );
  }

  /* What the model's words are called. */
  get noun() {
    return this.model.prompt === null ? "caption" : "answer";
  }

  exportViews() {
    if (!this.result) return [];
    const parameters = { figure: "caption", ...this.parametersOf(this.model, this.app.state) };
    return [{ picture: this.picture, model: this.model.id, parameters, command: this.result.command, name: `${this.picture.stem}-caption` }];
  }
}
