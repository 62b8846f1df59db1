/* The tab API: the server's own reference of its API (GET /api), in the look of this page. */

import { request } from "./api.js";
import { createElement } from "./dom.js";

export class ApiPage {
  constructor(app) {
    this.app = app;
    this.content = createElement("div", { class: "reference" });
    this.root = createElement("div", { class: "page api" }, this.content);
    this.isLoaded = false;
  }

  async update() {
    if (this.isLoaded) return;
    try {
      const html = await (await request("/api")).text();
      this.isLoaded = true;
      const main = new DOMParser().parseFromString(html, "text/html").querySelector("main");
      this.content.replaceChildren(...main.childNodes);
    } catch (error) {
      this.app.showError(error, () => this.app.set({}));
    }
  }
}
