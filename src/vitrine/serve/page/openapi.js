/* The tab API: the server's own description of itself (GET /api), in the look of this page. */

import { ask } from "./api.js";
import { h } from "./dom.js";

export function apiPage(app) {
  const content = h("div", { class: "reference" });
  const root = h("div", { class: "page api" }, content);
  let drawn = false;
  return {
    root,
    async update() {
      if (drawn) return;
      try {
        const html = await (await ask("/api")).text();
        drawn = true;
        const main = new DOMParser().parseFromString(html, "text/html").querySelector("main");
        content.replaceChildren(...main.childNodes);
      } catch (error) {
        app.trouble(error, () => app.set({}));
      }
    },
  };
}
