/* The tab Data: the validation pictures of a run by outcome, and the confusion matrix that opens them. */

import { choice, h, segments } from "./dom.js";
import { Picture } from "./picture.js";
import { ThumbnailGrid } from "./thumbnails.js";
import { confusionTable } from "./confusion.js";
import { takeAway } from "./take.js";

export function dataPage(app) {
  return new DataPage(app);
}

class DataPage {
  constructor(app) {
    this.app = app;
    this.title = h("h1", { class: "title" }, "Validation pictures");
    this.settings = h("div", { class: "settings" });
    this.filter = h("p", { class: "filter", "aria-live": "polite" });
    this.confusion = h("div", {});
    this.take = takeAway(app, () => this.taken());
    this.grid = new ThumbnailGrid((picture) => this.open(picture));
    this.root = h(
      "div",
      { class: "page data" },
      h("div", { class: "heading" }, this.title, this.settings),
      h("details", { class: "matrix", open: innerWidth > 700 }, h("summary", {}, "Confusion matrix"), this.confusion, this.take.root),
      h("div", { class: "pictures" }, this.filter, this.grid.root),
    );
  }

  async update(state) {
    const models = this.app.models.filter((model) => model.has_validation);
    const model = models.find((each) => each.id === state.model) || models[0];
    if (!model) {
      this.filter.textContent = "No model that is served has recorded predictions: only a run that vitrine trained has.";
      return;
    }
    if (this.shown !== model.id) {
      this.shown = model.id;
      this.found = null;
      try {
        const found = await this.app.validation(model.id);
        if (this.shown !== model.id) return;
        this.found = found;
      } catch (error) {
        this.shown = "";
        this.app.trouble(error, () => this.app.set({}));
        return;
      }
    }
    if (this.found) this.draw(this.app.state, model, models);
  }

  draw(state, model, models) {
    this.model = model;
    const { pictures, labels } = this.found;
    const wrong = pictures.filter(({ right }) => !right).length;
    this.drawSettings(state, model, models, { all: pictures.length, wrong, right: pictures.length - wrong });
    const drawn = JSON.stringify([model.id, state.truth, state.answer]);
    if (drawn !== this.drawnTable) {
      this.drawnTable = drawn;
      const cell = [state.truth, state.answer];
      this.confusion.replaceChildren(confusionTable(labels, this.found.confusion, cell, (truth, answer) => this.choose(truth, answer)));
    }
    const shown = arranged(pictures, state);
    const wanted = JSON.stringify([model.id, state.outcome, state.order, state.truth, state.answer]);
    if (wanted !== this.drawnGrid) {
      this.drawnGrid = wanted;
      this.grid.show(shown, model.id);
    }
    this.drawFilter(state, shown.length);
    this.take.update();
  }

  /* The confusion matrix, to take along. */
  taken() {
    if (!this.found) return [];
    const { command } = this.found;
    return [{ picture: null, model: this.model.id, parameters: { figure: "confusion" }, command, name: "confusion" }];
  }

  drawSettings(state, model, models, counts) {
    const drawn = JSON.stringify([model.id, state.outcome, state.order]);
    if (drawn === this.drawnSettings) return;
    this.drawnSettings = drawn;
    const focused = this.settings.contains(document.activeElement) ? document.activeElement.value : null;
    const outcomes = [["all", `all ${counts.all}`], ["wrong", `wrong ${counts.wrong}`], ["right", `right ${counts.right}`]];
    const orders = [["sure", "surest first"], ["unsure", "least sure first"], ["name", "by name"]];
    this.settings.replaceChildren(
      ...[
        models.length > 1 && choice("Model", models.map(({ id, name }) => [id, name]), model.id, (id) => this.app.set({ model: id, truth: "", answer: "" }, true)),
        segments("Outcome", outcomes, state.outcome, (outcome) => this.app.set({ outcome })),
        choice("Order", orders, state.order, (order) => this.app.set({ order })),
      ].filter(Boolean),
    );
    if (focused) this.settings.querySelector(`[value="${focused}"]`)?.focus();
  }

  choose(truth, answer) {
    const same = truth === this.app.state.truth && answer === this.app.state.answer;
    this.app.set(same ? { truth: "", answer: "" } : { truth, answer, outcome: "all" }, true);
  }

  drawFilter({ truth, answer, outcome }, count) {
    const pictures = count === 1 ? "1 picture" : `${count} pictures`;
    if (!truth && !answer) {
      const order = outcome === "all" ? ", the wrong ones first" : "";
      this.filter.replaceChildren(`${pictures}${order}`);
      return;
    }
    const words = truth === answer ? `of ${truth}, recognised` : `of ${truth} taken for ${answer}`;
    const clear = h("button", { type: "button", class: "quiet", onclick: () => this.app.set({ truth: "", answer: "" }, true) }, "Show all");
    this.filter.replaceChildren(`${pictures} ${words} `, clear);
  }

  open(picture) {
    const key = `${this.model.id}/${picture.id}`;
    this.app.samples.set(key, Picture.of(this.model.id, { ...picture, label: picture.true }));
    this.app.set({ tab: "classify", model: this.model.id, picture: key }, true);
  }
}

/* The pictures that a state asks for, in its order; wrong ones before right ones, except by name. */
function arranged(pictures, { outcome, order, truth, answer }) {
  const asked = pictures.filter(
    (picture) =>
      (outcome === "all" || picture.right === (outcome === "right")) &&
      (!truth || picture.true === truth) &&
      (!answer || picture.predicted === answer),
  );
  if (order === "name") return asked.sort((a, b) => a.name.localeCompare(b.name));
  const sign = order === "sure" ? -1 : 1;
  return asked.sort((a, b) => a.right - b.right || sign * (a.probability - b.probability));
}
