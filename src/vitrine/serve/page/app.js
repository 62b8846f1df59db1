/* The explorer's page: its tabs, its address, the pictures that a person opened, and error messages. */

import { getJson, isAbortError } from "./api.js";
import { ClassifyPage } from "./classify.js";
import { CaptionPage } from "./caption.js";
import { DataPage } from "./data.js";
import { FeaturesPage } from "./features.js";
import { ApiPage } from "./openapi.js";
import { PositionsPage } from "./positions.js";
import { createElement, announce } from "./dom.js";
import { Picture } from "./picture.js";
import { setTerms } from "./terms.js";
import { stateToHash, PICTURE_DEFAULTS, readState, writeState } from "./state.js";

const PAGES = {
  classify: ["Classify", ClassifyPage],
  features: ["Features", FeaturesPage],
  positions: ["Positions", PositionsPage],
  caption: ["Caption", CaptionPage],
  data: ["Data", DataPage],
  api: ["API", ApiPage],
};

// Codes of errors that are the picture's own; any other may be of the view or of the model.
const PICTURE_ERROR_CODES = ["empty", "large", "long", "type", "unknown", "animated", "deep", "corrupt"];

class App {
  constructor() {
    this.state = readState();
    this.models = [];
    this.titles = {}; // of methods, by name
    this.ownPictures = []; // opened by the person, newest first
    this.samples = new Map();
    this.pages = {};
    this.main = document.getElementById("main");
    this.isDrawScheduled = false;
  }

  classifiers() {
    return this.models.filter((model) => model.kind === "classifier");
  }

  captioners() {
    return this.models.filter((model) => model.kind === "captioner");
  }

  model(id) {
    return this.models.find((model) => model.id === id) || null;
  }

  /* Change the state, write it into the address and draw. With push, the browser's back button undoes the change. */
  set(changes, push = false) {
    const others = "picture" in changes && changes.picture !== this.state.picture ? PICTURE_DEFAULTS : {};
    this.state = { ...this.state, ...others, ...changes };
    writeState(this.state, push);
    if (this.isDrawScheduled) return;
    this.isDrawScheduled = true;
    queueMicrotask(() => {
      this.isDrawScheduled = false;
      this.draw();
    });
  }

  draw() {
    const { tab } = this.state;
    const [name, Page] = PAGES[tab];
    document.title = `${name} \u00b7 vitrine`;
    for (const link of document.querySelectorAll("#tabs a[data-tab]")) {
      const isCurrent = link.dataset.tab === tab;
      link.toggleAttribute("aria-current", isCurrent);
      if (isCurrent) link.setAttribute("aria-current", "page");
      // The state, and with it the picture, goes along.
      link.href = isCurrent ? stateToHash(this.state) : stateToHash({ ...this.state, tab: link.dataset.tab });
    }
    this.pages[tab] ??= new Page(this);
    if (this.main.firstChild !== this.pages[tab].root) {
      this.main.replaceChildren(this.pages[tab].root);
      this.clearError();
    }
    this.pages[tab].update(this.state);
  }

  /* Keys of the samples to offer with a model: its own, or those of another model if it has none. */
  sampleKeys(model) {
    const source = [model, ...this.models].find((each) => each.samples.length);
    return source ? source.samples.map(({ id }) => `${source.id}/${id}`) : [];
  }

  /* The picture with a key; null if it cannot be had. */
  async findPicture(key) {
    const ownPicture = this.ownPictures.find((picture) => picture.key === key);
    if (ownPicture) return ownPicture;
    if (key.startsWith("sha256:") || key.startsWith("given:")) {
      const storedPicture = await Picture.restore(key);
      if (storedPicture) this.ownPictures.unshift(storedPicture);
      return storedPicture;
    }
    if (!this.samples.has(key)) {
      const slash = key.indexOf("/");
      const [model, id] = [key.slice(0, slash), key.slice(slash + 1)];
      if (!this.model(model)) return null;
      const facts = this.model(model).samples.find((sample) => sample.id === id) || (await this.findValidationPicture(model, id));
      this.samples.set(key, Picture.fromSample(model, facts || { id, name: id }));
    }
    return this.samples.get(key);
  }

  /* The recorded predictions of a run, requested once. */
  loadValidation(model) {
    this.validations ??= {};
    this.validations[model] ??= getJson("/api/validation", { model }).catch((error) => {
      delete this.validations[model];
      throw error;
    });
    return this.validations[model];
  }

  /* Name and label of a validation picture; null if they cannot be had. */
  async findValidationPicture(model, id) {
    if (!this.model(model).has_validation) return null;
    const validation = await this.loadValidation(model).catch(() => null);
    const picture = validation?.pictures.find((each) => each.id === id);
    return picture ? { ...picture, label: picture.true } : null;
  }

  /* Pictures from a file dialogue, a drop or the clipboard. */
  async addPictures(files) {
    const pictures = [];
    for (const file of files) {
      try {
        pictures.push(await Picture.fromFile(file, file.name || "pasted picture"));
      } catch (error) {
        this.showError(error);
      }
    }
    if (!pictures.length) return;
    this.clearError();
    const keys = new Set(pictures.map((picture) => picture.key));
    this.ownPictures = [...pictures, ...this.ownPictures.filter((picture) => !keys.has(picture.key))].slice(0, 24);
    const tab = ["classify", "features", "caption"].includes(this.state.tab) ? this.state.tab : "classify";
    this.set({ tab, picture: pictures[0].key }, true);
  }

  /* Show an error's message, with a button if retry is given. */
  showError(error, retry = null) {
    if (isAbortError(error)) return;
    if (!("status" in error)) console.error(error);
    const close = createElement("button", { type: "button", class: "quiet", onclick: () => this.clearError() }, "Close");
    const tryAgain = () => {
      this.clearError();
      retry();
    };
    const parts = [createElement("p", {}, error.message), retry && createElement("button", { type: "button", onclick: tryAgain }, "Try again"), close];
    document.getElementById("error").replaceChildren(createElement("div", { class: "error" }, ...parts.filter(Boolean)));
  }

  /* Show an error of a request about a picture; a person's own picture that is unusable leaves the tray. */
  handlePictureError(picture, error, retry) {
    const isUnusable = PICTURE_ERROR_CODES.includes(error.code) && this.ownPictures.includes(picture);
    this.showError(error, isUnusable ? null : retry);
    if (!isUnusable) return;
    this.ownPictures = this.ownPictures.filter((each) => each !== picture);
    this.set({ picture: "" });
  }

  clearError() {
    document.getElementById("error").replaceChildren();
  }

  async start() {
    listenToWindow(this);
    try {
      const answer = await getJson("/api/models");
      this.models = answer.models;
      this.titles = answer.titles;
      setTerms(answer.terms);
      this.featurePictures = answer.feature_pictures;
      this.report = answer.report;
    } catch (error) {
      this.showError(error, () => this.start());
      return;
    }
    const isShown = {
      classify: this.classifiers().length,
      features: this.classifiers().length,
      positions: this.models.some((model) => model.has_positions),
      caption: this.captioners().length,
      data: this.models.some((model) => model.has_validation),
      api: true,
    };
    const tabs = Object.entries(PAGES).map(([tab, [name]]) =>
      createElement("a", { "data-tab": tab, href: `#/${tab}`, class: isShown[tab] ? null : "none" }, name),
    );
    if (this.report) tabs.splice(-1, 0, createElement("a", { href: "/report", class: "report" }, "Report"));
    document.getElementById("tabs").replaceChildren(...tabs);
    if (this.state.tab === "classify" && !isShown.classify && isShown.caption) this.set({ tab: "caption" });
    this.draw();
  }
}

function listenToWindow(app) {
  if (listenToWindow.isDone) return;
  listenToWindow.isDone = true;
  addEventListener("popstate", () => {
    app.state = readState();
    if (app.models.length) app.draw();
  });
  addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) app.addPictures(files);
  });
  const dropHint = document.getElementById("drop-hint");
  const hasFiles = (event) => [...event.dataTransfer.types].includes("Files");
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    dropHint.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) dropHint.hidden = true;
  });
  addEventListener("drop", (event) => {
    dropHint.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    app.addPictures([...event.dataTransfer.files]);
  });
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address's fragment is the view
    app.main.focus();
  });
  addEventListener("unhandledrejection", (event) => {
    if (isAbortError(event.reason)) event.preventDefault();
  });
  setUpTheme();
}

/* The button for light, dark or the system's colours; the choice is stored in this browser. */
function setUpTheme() {
  const button = document.getElementById("theme");
  const order = ["system", "light", "dark"];
  const apply = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = { system: "\u25d0", light: "\u2600\ufe0e", dark: "\u263e\ufe0e" }[theme];
    button.setAttribute("aria-label", `Colours: ${theme}. Change`);
    button.title = `Colours: ${theme}`;
    dispatchEvent(new Event("themechange"));
  };
  let current = "system";
  try {
    current = order.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "system";
  } catch {
    // storage is forbidden: the choice lasts as long as the page
  }
  apply(current);
  button.addEventListener("click", () => {
    current = order[(order.indexOf(current) + 1) % order.length];
    apply(current);
    announce(`Colours: ${current}`);
    try {
      localStorage.setItem("theme", current);
    } catch {
      // as above
    }
  });
}

new App().start();
