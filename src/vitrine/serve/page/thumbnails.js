/* Thousands of thumbnails, of which only those in sight are in the page. */

import { h } from "./dom.js";
import { addressOf } from "./picture.js";
import { chance } from "./viewer.js";

const [CELL, HIGH, GAP] = [112, 158, 10]; // pixels of a thumbnail with its words, and between two
const AHEAD = 3; // rows drawn beyond what is in sight

export class ThumbnailGrid {
  constructor(onopen) {
    this.onopen = onopen;
    this.items = [];
    this.cells = new Map();
    this.at = 0; // the one that the keyboard is on
    this.root = h("div", { class: "thumbnails", role: "list", "aria-label": "Pictures; arrow keys move between them" });
    this.root.addEventListener("keydown", (event) => this.key(event));
    addEventListener("scroll", () => this.soon(), { passive: true });
    new ResizeObserver(() => this.soon()).observe(this.root);
  }

  show(items, model) {
    Object.assign(this, { items, model, at: 0 });
    this.cells.clear();
    this.root.replaceChildren();
    this.draw();
  }

  soon() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.draw();
    });
  }

  draw() {
    const width = this.root.clientWidth;
    if (!width || !this.root.isConnected) return;
    this.columns = Math.max(1, Math.floor((width + GAP) / (CELL + GAP)));
    const across = this.columns > 1 ? CELL + Math.min(3 * GAP, (width - this.columns * CELL) / (this.columns - 1)) : 0;
    const step = HIGH + GAP;
    const rows = Math.ceil(this.items.length / this.columns);
    this.root.style.height = `${Math.max(0, rows * step - GAP)}px`;
    const above = -this.root.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(above / step) - AHEAD) * this.columns;
    const last = Math.min(this.items.length, (Math.ceil((above + innerHeight) / step) + AHEAD) * this.columns);
    for (const [index, cell] of this.cells) {
      if ((index < first || index >= last) && cell.firstChild !== document.activeElement) {
        cell.remove();
        this.cells.delete(index);
      }
    }
    for (let index = first; index < last; index += 1) {
      if (!this.cells.has(index)) this.cells.set(index, this.cell(index));
      const cell = this.cells.get(index);
      const [row, column] = [Math.floor(index / this.columns), index % this.columns];
      cell.style.transform = `translate(${Math.round(column * across)}px, ${row * step}px)`;
      if (!cell.isConnected) this.root.append(cell);
    }
  }

  cell(index) {
    const picture = this.items[index];
    const there = picture.present !== false;
    const image = there && h("img", { src: addressOf("thumbnail", this.model, picture, { size: 2 * CELL }), alt: "", width: CELL, height: CELL, decoding: "async" });
    const sure = picture.probability === null ? "" : chance(picture.probability);
    const said = picture.right ? `${picture.true}, recognised` : `${picture.true}, taken for ${picture.predicted}`;
    const button = h(
      "button",
      { type: "button", tabindex: index === this.at ? 0 : -1, "aria-label": `${picture.name}: ${said}, ${sure}`, title: `${picture.name}: ${said}` },
      image || h("span", { class: "missing" }, "not there any more"),
      h("span", { class: picture.right ? "outcome" : "outcome wrong" }, h("span", { class: "answered" }, picture.predicted), h("span", { class: "number" }, sure)),
      h("span", { class: "truth" }, picture.right ? "" : `is ${picture.true}`),
    );
    if (there) button.addEventListener("click", () => this.onopen(picture));
    else button.setAttribute("aria-disabled", "true");
    return h("div", { role: "listitem", "aria-posinset": index + 1, "aria-setsize": this.items.length, "data-index": index }, button);
  }

  key(event) {
    const rows = Math.max(1, Math.floor(innerHeight / (HIGH + GAP)) - 1);
    const last = this.items.length - 1;
    const steps = {
      ArrowLeft: this.at - 1,
      ArrowRight: this.at + 1,
      ArrowUp: this.at - this.columns,
      ArrowDown: this.at + this.columns,
      PageUp: this.at - rows * this.columns,
      PageDown: this.at + rows * this.columns,
      Home: 0,
      End: last,
    };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const to = Math.max(0, Math.min(last, steps[event.key]));
    const before = this.cells.get(this.at);
    if (before) before.firstChild.tabIndex = -1;
    this.at = to;
    // Into sight first, so that it is drawn, and then under the keyboard.
    const top = this.root.getBoundingClientRect().top + Math.floor(to / this.columns) * (HIGH + GAP);
    if (top < 80) scrollBy(0, top - 80);
    else if (top + HIGH > innerHeight - 8) scrollBy(0, top + HIGH - innerHeight + 8);
    this.draw();
    const cell = this.cells.get(to);
    cell.firstChild.tabIndex = 0;
    cell.firstChild.focus({ preventScroll: true });
  }
}
