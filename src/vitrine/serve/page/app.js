/* The page: its tabs, its address, the pictures that a person gave, and what went wrong. */

import { getJson, isAbort } from "./api.js";
import { classifyPage } from "./classify.js";
import { captionPage } from "./caption.js";
import { dataPage } from "./data.js";
import { apiPage } from "./openapi.js";
import { positionsPage } from "./positions.js";
import { h, tell } from "./dom.js";
import { Picture } from "./picture.js";
import { address, OF_A_PICTURE, read, write } from "./state.js";

const PAGES = {
  classify: ["Classify", classifyPage],
  positions: ["Positions", positionsPage],
  caption: ["Caption", captionPage],
  data: ["Data", dataPage],
  api: ["API", apiPage],
};

// Codes of refusals that are the picture's own fault; any other may be of the view or of the model.
const OF_THE_PICTURE = ["empty", "large", "long", "type", "unknown", "animated", "deep", "corrupt"];

class App {
  constructor() {
    this.state = read();
    this.models = [];
    this.given = []; // pictures of the person, newest first
    this.samples = new Map();
    this.pages = {};
    this.main = document.getElementById("main");
    this.waiting = false;
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

  /* Changes of the view: into the address, and drawn. A change that a person would want to go back from is pushed. */
  set(changes, push = false) {
    const others = "picture" in changes && changes.picture !== this.state.picture ? OF_A_PICTURE : {};
    this.state = { ...this.state, ...others, ...changes };
    write(this.state, push);
    if (this.waiting) return;
    this.waiting = true;
    queueMicrotask(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    const { tab } = this.state;
    const [name, make] = PAGES[tab];
    document.title = `${name} \u00b7 vitrine`;
    for (const link of document.querySelectorAll("#tabs a[data-tab]")) {
      const own = link.dataset.tab === tab;
      link.toggleAttribute("aria-current", own);
      if (own) link.setAttribute("aria-current", "page");
      // What the pages share goes along: the picture.
      link.href = own ? address(this.state) : address({ ...this.state, tab: link.dataset.tab });
    }
    this.pages[tab] ??= make(this);
    if (this.main.firstChild !== this.pages[tab].root) {
      this.main.replaceChildren(this.pages[tab].root);
      this.settle();
    }
    this.pages[tab].update(this.state);
  }

  /* Keys of the pictures to offer with a model: its own samples, or those of another where it has none. */
  offered(model) {
    const source = [model, ...this.models].find((each) => each.samples.length);
    return source ? source.samples.map(({ id }) => `${source.id}/${id}`) : [];
  }

  /* The picture of the address, or null where it is not to be had. */
  async picture(key) {
    const given = this.given.find((picture) => picture.key === key);
    if (given) return given;
    if (key.startsWith("sha256:") || key.startsWith("given:")) {
      const kept = await Picture.kept(key);
      if (kept) this.given.unshift(kept);
      return kept;
    }
    if (!this.samples.has(key)) {
      const slash = key.indexOf("/");
      const [model, id] = [key.slice(0, slash), key.slice(slash + 1)];
      if (!this.model(model)) return null;
      const named = this.model(model).samples.find((sample) => sample.id === id) || (await this.recorded(model, id));
      this.samples.set(key, Picture.of(model, named || { id, name: id }));
    }
    return this.samples.get(key);
  }

  /* The recorded predictions of a run, asked for once. */
  validation(model) {
    this.validations ??= {};
    this.validations[model] ??= getJson("/api/validation", { model }).catch((error) => {
      delete this.validations[model];
      throw error;
    });
    return this.validations[model];
  }

  /* Name and label of a validation picture, null where they are not to be had. */
  async recorded(model, id) {
    if (!this.model(model).has_validation) return null;
    const found = await this.validation(model).catch(() => null);
    const picture = found?.pictures.find((each) => each.id === id);
    return picture ? { ...picture, label: picture.true } : null;
  }

  /* Pictures from a file dialogue, a drop or the clipboard. */
  async take(files) {
    const pictures = [];
    for (const file of files) {
      try {
        pictures.push(await Picture.given(file, file.name || "pasted picture"));
      } catch (error) {
        this.trouble(error);
      }
    }
    if (!pictures.length) return;
    this.settle();
    const keys = new Set(pictures.map((picture) => picture.key));
    this.given = [...pictures, ...this.given.filter((picture) => !keys.has(picture.key))].slice(0, 24);
    const tab = ["classify", "caption"].includes(this.state.tab) ? this.state.tab : "classify";
    this.set({ tab, picture: pictures[0].key }, true);
  }

  /* An error as a sentence; retry is offered where there is a way. */
  trouble(error, retry = null) {
    if (isAbort(error)) return;
    if (!("status" in error)) console.error(error);
    const close = h("button", { type: "button", class: "quiet", onclick: () => this.settle() }, "Close");
    const again = () => {
      this.settle();
      retry();
    };
    const parts = [h("p", {}, error.message), retry && h("button", { type: "button", onclick: again }, "Try again"), close];
    document.getElementById("trouble").replaceChildren(h("div", { class: "trouble" }, ...parts.filter(Boolean)));
  }

  /* What the server says of a picture that it cannot use: a person's own leaves the tray, and another is shown. */
  refused(picture, error, retry) {
    const unusable = OF_THE_PICTURE.includes(error.code) && this.given.includes(picture);
    this.trouble(error, unusable ? null : retry);
    if (!unusable) return;
    this.given = this.given.filter((each) => each !== picture);
    this.set({ picture: "" });
  }

  settle() {
    document.getElementById("trouble").replaceChildren();
  }

  async start() {
    listen(this);
    try {
      const listed = await getJson("/api/models");
      this.models = listed.models;
      this.report = listed.report;
    } catch (error) {
      this.trouble(error, () => this.start());
      return;
    }
    const shown = {
      classify: this.classifiers().length,
      positions: this.models.some((model) => model.has_positions),
      caption: this.captioners().length,
      data: this.models.some((model) => model.has_validation),
      api: true,
    };
    const tabs = Object.entries(PAGES).map(([tab, [name]]) =>
      h("a", { "data-tab": tab, href: `#/${tab}`, class: shown[tab] ? null : "none" }, name),
    );
    if (this.report) tabs.splice(-1, 0, h("a", { href: "/report", class: "report" }, "Report"));
    document.getElementById("tabs").replaceChildren(...tabs);
    if (this.state.tab === "classify" && !shown.classify && shown.caption) this.set({ tab: "caption" });
    this.draw();
  }
}

function listen(app) {
  if (listen.done) return;
  listen.done = true;
  addEventListener("popstate", () => {
    app.state = read();
    if (app.models.length) app.draw();
  });
  addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) app.take(files);
  });
  const dropping = document.getElementById("dropping");
  const carries = (event) => [...event.dataTransfer.types].includes("Files");
  addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    dropping.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) dropping.hidden = true;
  });
  addEventListener("drop", (event) => {
    dropping.hidden = true;
    if (!carries(event)) return;
    event.preventDefault();
    app.take([...event.dataTransfer.files]);
  });
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address's fragment is the view
    app.main.focus();
  });
  addEventListener("unhandledrejection", (event) => {
    if (isAbort(event.reason)) event.preventDefault();
  });
  theme();
}

/* Light, dark, or as the system has it; kept in this browser. */
function theme() {
  const button = document.getElementById("theme");
  const order = ["system", "light", "dark"];
  const apply = (chosen) => {
    if (chosen === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    button.textContent = { system: "\u25d0", light: "\u2600\ufe0e", dark: "\u263e\ufe0e" }[chosen];
    button.setAttribute("aria-label", `Colours: ${chosen}. Change`);
    button.title = `Colours: ${chosen}`;
    dispatchEvent(new Event("themechange"));
  };
  let chosen = "system";
  try {
    chosen = order.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "system";
  } catch {
    // storage is forbidden: the choice lasts as long as the page
  }
  apply(chosen);
  button.addEventListener("click", () => {
    chosen = order[(order.indexOf(chosen) + 1) % order.length];
    apply(chosen);
    tell(`Colours: ${chosen}`);
    try {
      localStorage.setItem("theme", chosen);
    } catch {
      // as above
    }
  });
}

new App().start();
