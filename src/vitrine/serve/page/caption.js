/* The tab Caption: words as they are decoded, each with its map; what else could have been said; the beams. */

import { askAbout, events, isAbort } from "./api.js";
import { sharedHigh } from "./attention.js";
import { choice, h, segments } from "./dom.js";
import { PicturePage } from "./looking.js";
import { takeAway } from "./take.js";
import { chance, decodeArray, largest, number, WordViewer } from "./viewer.js";

const KEPT = 20;

/* A word as the viewer takes it. */
function checked(word) {
  return { ...word, particular: word.looked !== false, sentence: word.check };
}

export function captionPage(app) {
  return new CaptionPage(app);
}

class CaptionPage extends PicturePage {
  constructor(app) {
    super(app);
    this.kept = new Map();
    this.settings = h("div", { class: "settings" });
    this.place = h("div", { class: "captioned" });
    this.alternatives = h("section", { class: "alternatives", "aria-label": "Alternatives" });
    this.beams = h("section", { class: "beams", "aria-label": "Beams" });
    this.take = takeAway(app, () => this.taken());
    this.root = h(
      "div",
      { class: "page caption" },
      this.tray.root,
      h("div", { class: "looking" }, h("div", { class: "heading" }, this.title, this.settings), this.place),
      h("aside", { class: "side", "aria-label": "What else it could have said" }, this.alternatives, this.beams, this.take.root),
      this.blank,
    );
  }

  async update(state) {
    const models = this.app.captioners();
    const model = this.app.model(state.captioner)?.kind === "captioner" ? this.app.model(state.captioner) : models[0];
    if (!model) {
      this.say("No captioner is served", "Start it with one: vitrine serve RUN, where RUN was trained on captions.");
      return;
    }
    const picture = await this.pictureOf(state, model, "Captions", "Choose, drop or paste a picture to have it described, word by word.");
    if (!picture) return;
    this.title.textContent = picture.title;
    this.drawSettings(models, model, state);
    const question = JSON.stringify([picture.key, model.id, state.beams, state.prefix]);
    if (question === this.question) {
      this.follow(state);
      return;
    }
    this.question = question;
    this.ask(picture, model, state, question);
  }

  drawSettings(models, model, { beams }) {
    const drawn = JSON.stringify([model.id, beams]);
    if (drawn === this.drawnSettings) return;
    this.drawnSettings = drawn;
    const focused = this.settings.contains(document.activeElement) ? document.activeElement.value : null;
    const ways = [["1", "greedy"], ["3", "3 beams"], ["5", "5 beams"]];
    this.settings.replaceChildren(
      ...[
        models.length > 1 && choice("Model", models.map(({ id, name }) => [id, name]), model.id, (captioner) => this.app.set({ captioner, prefix: "", word: "" }, true)),
        segments("Search", ways, beams, (value) => this.app.set({ beams: value, prefix: "", word: "" }, true)),
      ].filter(Boolean),
    );
    if (focused) this.settings.querySelector(`[value="${focused}"]`)?.focus();
  }

  async ask(picture, model, state, question) {
    this.stop?.abort();
    this.stop = new AbortController();
    const { signal } = this.stop;
    this.done = null;
    this.shownWords = [];
    this.alternatives.replaceChildren();
    this.beams.replaceChildren();
    this.take.update();
    Object.assign(this, { picture, model });
    this.place.classList.add("busy");
    try {
      const image = await picture.image();
      const kept = this.kept.get(question);
      if (kept) {
        await this.begin(image, kept, question);
        await this.finish(kept, state);
        return;
      }
      const parameters = { beams: state.beams, prefix: state.prefix, stream: true };
      const response = await askAbout(picture, model.id, "/api/caption", { parameters, signal });
      for await (const { event, data } of events(response)) {
        if (question !== this.question) return;
        if (event === "error") throw Object.assign(new Error(data.error), { status: 500 });
        if (event === "word") await this.word(image, data, question);
        if (event === "done") {
          if (data.picture) picture.held.set(model.id, data.picture);
          this.kept.set(question, data);
          if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
          if (!this.viewer || this.viewer.question !== question) await this.begin(image, data, question);
          await this.finish(data, this.app.state);
        }
      }
      if (!this.done && question === this.question) throw Object.assign(new Error("The caption broke off before its end."), { status: 500 });
    } catch (error) {
      if (isAbort(error) || question !== this.question) return;
      const again = () => {
        this.question = "";
        this.app.set({});
      };
      const broke = error.name === "TypeError"; // the stream's own error, in words that differ from browser to browser
      this.app.refused(picture, broke ? Object.assign(new Error("The connection to the server broke off."), { status: 0 }) : error, again);
    } finally {
      if (question === this.question) this.place.classList.remove("busy");
    }
  }

  /* A viewer for a new caption, without words yet. */
  async begin(image, { size, grid = [1, 1], box = [0, 0, ...size], scale }, question) {
    const root = h("figure", { class: "viewer" });
    const unknown = { kind: "uniform", high: 2, label: "multiple of uniform" };
    const strength = Number(this.app.state.strength);
    this.viewer = new WordViewer(root, { photograph: image, size, grid, box, scale: scale || unknown, words: [], strength });
    this.viewer.question = question;
    this.viewer.onselect = (index, pinned) => this.selected(index, pinned);
    this.place.replaceChildren(root);
    await this.viewer.ready;
  }

  async word(image, word, question) {
    if (!this.viewer || this.viewer.question !== question) {
      await this.begin(image, { ...word, size: word.size || [image.width, image.height] }, question);
      this.place.classList.remove("busy");
    }
    this.viewer.follow = true; // each word is shown as it comes
    this.shownWords.push(word);
    const maps = this.shownWords.map((each) => decodeArray(each.map));
    this.viewer.data.scale = { ...this.viewer.data.scale, high: sharedHigh(maps) };
    this.viewer.add(checked(word));
  }

  /* The whole caption: the scale of all words, and which of them did not look anywhere in particular. */
  async finish(done, state) {
    this.done = done;
    const { viewer } = this;
    viewer.follow = false;
    Object.assign(viewer.data, { size: done.size, grid: done.grid || viewer.data.grid, box: done.box || viewer.data.box, scale: done.scale });
    viewer.clear();
    this.shownWords = done.words;
    for (const word of done.words) viewer.add(checked(word));
    viewer.stage.show({ size: done.size });
    const last = done.words.length - 1;
    const peaks = this.viewer.words.map(({ values, particular }) => (particular ? largest(values) : 0));
    const wanted = state.word === "" ? peaks.indexOf(Math.max(...peaks)) : Math.min(Number(state.word), last);
    if (last >= 0) viewer.pin(Math.max(0, wanted));
    this.drawBeams(done);
    this.take.update();
    this.place.classList.remove("busy");
    if (last < 0) this.alternatives.replaceChildren(h("p", { class: "grey" }, "The model ended the caption before its first word."));
  }

  follow({ word }) {
    if (!this.done || word === "" || Number(word) === this.viewer.pinned) return;
    if (Number(word) < this.done.words.length) this.viewer.pin(Number(word));
  }

  selected(index, pinned) {
    this.drawAlternatives(index);
    if (pinned && this.done && String(index) !== this.app.state.word) this.app.set({ word: String(index) });
  }

  drawAlternatives(index) {
    const word = this.shownWords[index];
    if (!word || this.drawnAlternatives === word) return;
    this.drawnAlternatives = word;
    // An alternative's pieces are the whole caption up to its own end; what comes after is decoded greedily.
    const continued = ({ pieces }) => this.app.set({ prefix: pieces.join(","), beams: "1", word: "" }, true);
    const row = (text, probability) => [
      h("span", { class: "label" }, text),
      h("span", { class: "number" }, chance(probability)),
      h("span", { class: "share", css: { "--share": probability }, "aria-hidden": "true" }),
    ];
    const others = (word.alternatives || []).map((each) =>
      h("li", {}, h("button", { type: "button", class: "answer", title: "Continue the caption from here", onclick: () => continued(each) }, row(each.text, each.probability))),
    );
    this.alternatives.replaceChildren(
      h("h2", { class: "eyebrow" }, `In place of \u201c${word.text}\u201d`),
      h("ol", { class: "predictions" }, h("li", {}, h("div", { class: "answer said" }, row(word.text, word.probability))), others),
      h("p", { class: "small grey" }, others.length ? "Choose one, and the caption continues from there." : "Beam search keeps no alternatives word by word."),
      ...(word.check ? [h("p", { class: "small grey" }, word.check)] : []),
    );
  }

  drawBeams({ beams, caption, log_probability: likely }) {
    const list = beams?.length > 1 ? beams : [{ caption, log_probability: likely }];
    const said = (value) => h("span", { class: "small grey number" }, `log-probability ${number(Number(value.toFixed(2)))}`);
    const items = list.map((beam) => h("li", { "aria-current": beam.caption === caption ? "true" : null }, beam.caption, said(beam.log_probability)));
    const own = () => this.app.set({ prefix: "", word: "" }, true);
    this.beams.replaceChildren(
      h("h2", { class: "eyebrow" }, list.length > 1 ? "Beams" : "The whole caption"),
      h("ol", { class: list.length > 1 ? "beam-list" : "beam-list single" }, items),
      ...(this.app.state.prefix ? [h("button", { type: "button", onclick: own }, "As the model would have it")] : []),
    );
  }

  taken() {
    if (!this.done) return [];
    const { beams, prefix } = this.app.state;
    const parameters = { figure: "caption", beams, prefix };
    return [{ picture: this.picture, model: this.model.id, parameters, command: this.done.command, name: `${this.picture.stem}-caption` }];
  }
}
