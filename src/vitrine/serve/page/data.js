/* The tab Data: the validation pictures of a run by outcome, and the confusion matrix that opens them. */

import { createSelect, createElement, createRadioGroup } from "./dom.js";
import { Picture } from "./picture.js";
import { ThumbnailGrid } from "./thumbnails.js";
import { createConfusionTable } from "./confusion.js";
import { createExportPanel } from "./export.js";

export class DataPage {
  constructor(app) {
    this.app = app;
    this.title = createElement("h1", { class: "title" }, "Validation pictures");
    this.settings = createElement("div", { class: "settings" });
    this.filter = createElement("p", { class: "filter", "aria-live": "polite" });
    this.leakage = createElement("div", { class: "leakage" });
    this.confusion = createElement("div", {});
    this.exportPanel = createExportPanel(app, () => this.exportViews());
    this.grid = new ThumbnailGrid((picture) => this.open(picture));
    this.root = createElement(
      "div",
      { class: "page data" },
      createElement("div", { class: "heading" }, this.title, this.settings),
      createElement("details", { class: "matrix", open: innerWidth > 700 }, createElement("summary", {}, "Confusion matrix"), this.confusion, this.exportPanel.root),
      createElement("div", { class: "pictures" }, this.leakage, this.filter, this.grid.root),
    );
  }

  async update(state) {
    const models = this.app.models.filter((model) => model.has_validation);
    const model = models.find((each) => each.id === state.model) || models[0];
    if (!model) {
      this.filter.textContent = "No model that is served has recorded predictions: only a run that vitrine trained has.";
      return;
    }
    if (this.modelId !== model.id) {
      this.modelId = model.id;
      this.validation = null;
      try {
        const answer = await this.app.loadValidation(model.id);
        if (this.modelId !== model.id) return;
        this.validation = answer;
      } catch (error) {
        this.modelId = "";
        this.app.showError(error, () => this.app.set({}));
        return;
      }
    }
    if (this.validation) this.draw(this.app.state, model, models);
  }

  draw(state, model, models) {
    this.model = model;
    const { pictures, labels } = this.validation;
    this.leakage.replaceChildren(...this.validation.leakage.map((sentence) => createElement("p", { class: "leak" }, sentence)));
    const wrong = pictures.filter(({ right }) => !right).length;
    this.drawSettings(state, model, models, { all: pictures.length, wrong, right: pictures.length - wrong });
    const key = JSON.stringify([model.id, state.truth, state.answer]);
    if (key !== this.tableKey) {
      this.tableKey = key;
      const cell = [state.truth, state.answer];
      this.confusion.replaceChildren(createConfusionTable(labels, this.validation.confusion, cell, (truth, answer) => this.selectCell(truth, answer)));
    }
    const visiblePictures = filterAndSort(pictures, state);
    const gridKey = JSON.stringify([model.id, state.outcome, state.order, state.truth, state.answer]);
    if (gridKey !== this.gridKey) {
      this.gridKey = gridKey;
      this.grid.show(visiblePictures, model.id);
    }
    this.drawFilter(state, visiblePictures.length);
    this.exportPanel.update();
  }

  /* The confusion matrix, for export. */
  exportViews() {
    if (!this.validation) return [];
    const { command } = this.validation;
    return [{ picture: null, model: this.model.id, parameters: { figure: "confusion" }, command, name: "confusion" }];
  }

  drawSettings(state, model, models, counts) {
    const key = JSON.stringify([model.id, state.outcome, state.order]);
    if (key === this.settingsKey) return;
    this.settingsKey = key;
    const focusedValue = this.settings.contains(document.activeElement) ? document.activeElement.value : null;
    const outcomes = [["all", `all ${counts.all}`], ["wrong", `wrong ${counts.wrong}`], ["right", `right ${counts.right}`]];
    const orders = [["sure", "surest first"], ["unsure", "least sure first"], ["name", "by name"]];
    this.settings.replaceChildren(
      ...[
        models.length > 1 && createSelect("Model", models.map(({ id, name }) => [id, name]), model.id, (id) => this.app.set({ model: id, truth: "", answer: "" }, true)),
        createRadioGroup("Outcome", outcomes, state.outcome, (outcome) => this.app.set({ outcome })),
        createSelect("Order", orders, state.order, (order) => this.app.set({ order })),
      ].filter(Boolean),
    );
    if (focusedValue) this.settings.querySelector(`[value="${focusedValue}"]`)?.focus();
  }

  selectCell(truth, answer) {
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
    const clear = createElement("button", { type: "button", class: "quiet", onclick: () => this.app.set({ truth: "", answer: "" }, true) }, "Show all");
    this.filter.replaceChildren(`${pictures} ${words} `, clear);
  }

  open(picture) {
    const key = `${this.model.id}/${picture.id}`;
    this.app.samples.set(key, Picture.fromSample(this.model.id, { ...picture, label: picture.true }));
    this.app.set({ tab: "classify", model: this.model.id, picture: key }, true);
  }
}

/* The pictures that fit a state, in its order; wrong ones before right ones, except by name. */
function filterAndSort(pictures, { outcome, order, truth, answer }) {
  const matches = pictures.filter(
    (picture) =>
      (outcome === "all" || picture.right === (outcome === "right")) &&
      (!truth || picture.true === truth) &&
      (!answer || picture.predicted === answer),
  );
  if (order === "name") return matches.sort((a, b) => a.name.localeCompare(b.name));
  const sign = order === "sure" ? -1 : 1;
  return matches.sort((a, b) => a.right - b.right || sign * (a.probability - b.probability));
}
