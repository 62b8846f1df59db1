/* A grid of thousands of thumbnails, of which only those in sight are in the page. */

import { createElement } from "./dom.js";
import { pictureUrl } from "./picture.js";
import { formatProbability } from "./viewer.js";

const [CELL_WIDTH, CELL_HEIGHT, GAP] = [112, 158, 10]; // pixels of a thumbnail with its text, and between two
const ROWS_AHEAD = 3; // rows drawn beyond what is in sight

export class ThumbnailGrid {
  constructor(onOpen) {
    this.onOpen = onOpen;
    this.items = [];
    this.cells = new Map();
    this.focusIndex = 0; // of the cell that the keyboard is on
    this.root = createElement("div", { class: "thumbnails", role: "list", "aria-label": "Pictures; arrow keys move between them" });
    this.root.addEventListener("keydown", (event) => this.onKey(event));
    addEventListener("scroll", () => this.scheduleDraw(), { passive: true });
    new ResizeObserver(() => this.scheduleDraw()).observe(this.root);
  }

  show(items, model) {
    Object.assign(this, { items, model, focusIndex: 0 });
    this.cells.clear();
    this.root.replaceChildren();
    this.draw();
  }

  scheduleDraw() {
    if (this.isDrawScheduled) return;
    this.isDrawScheduled = true;
    requestAnimationFrame(() => {
      this.isDrawScheduled = false;
      this.draw();
    });
  }

  draw() {
    const width = this.root.clientWidth;
    if (!width || !this.root.isConnected) return;
    this.columns = Math.max(1, Math.floor((width + GAP) / (CELL_WIDTH + GAP)));
    const across = this.columns > 1 ? CELL_WIDTH + Math.min(3 * GAP, (width - this.columns * CELL_WIDTH) / (this.columns - 1)) : 0;
    const step = CELL_HEIGHT + GAP;
    const rows = Math.ceil(this.items.length / this.columns);
    this.root.style.height = `${Math.max(0, rows * step - GAP)}px`;
    const above = -this.root.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(above / step) - ROWS_AHEAD) * this.columns;
    const last = Math.min(this.items.length, (Math.ceil((above + innerHeight) / step) + ROWS_AHEAD) * this.columns);
    for (const [index, cell] of this.cells) {
      if ((index < first || index >= last) && cell.firstChild !== document.activeElement) {
        cell.remove();
        this.cells.delete(index);
      }
    }
    for (let index = first; index < last; index += 1) {
      if (!this.cells.has(index)) this.cells.set(index, this.createCell(index));
      const cell = this.cells.get(index);
      const [row, column] = [Math.floor(index / this.columns), index % this.columns];
      cell.style.transform = `translate(${Math.round(column * across)}px, ${row * step}px)`;
      if (!cell.isConnected) this.root.append(cell);
    }
  }

  createCell(index) {
    const picture = this.items[index];
    const exists = picture.present !== false;
    const image = exists && createElement("img", { src: pictureUrl("thumbnail", this.model, picture, { size: 2 * CELL_WIDTH }), alt: "", width: CELL_WIDTH, height: CELL_WIDTH, decoding: "async" });
    const probability = picture.probability === null ? "" : formatProbability(picture.probability);
    const description = picture.right ? `${picture.true}, recognised` : `${picture.true}, taken for ${picture.predicted}`;
    const button = createElement(
      "button",
      { type: "button", tabindex: index === this.focusIndex ? 0 : -1, "aria-label": `${picture.name}: ${description}, ${probability}`, title: `${picture.name}: ${description}` },
      image || createElement("span", { class: "missing" }, "not there any more"),
      createElement("span", { class: picture.right ? "outcome" : "outcome wrong" }, createElement("span", { class: "answered" }, picture.predicted), createElement("span", { class: "number" }, probability)),
      createElement("span", { class: "truth" }, picture.right ? "" : `is ${picture.true}`),
    );
    if (exists) button.addEventListener("click", () => this.onOpen(picture));
    else button.setAttribute("aria-disabled", "true");
    return createElement("div", { role: "listitem", "aria-posinset": index + 1, "aria-setsize": this.items.length, "data-index": index }, button);
  }

  onKey(event) {
    const rows = Math.max(1, Math.floor(innerHeight / (CELL_HEIGHT + GAP)) - 1);
    const last = this.items.length - 1;
    const steps = {
      ArrowLeft: this.focusIndex - 1,
      ArrowRight: this.focusIndex + 1,
      ArrowUp: this.focusIndex - this.columns,
      ArrowDown: this.focusIndex + this.columns,
      PageUp: this.focusIndex - rows * this.columns,
      PageDown: this.focusIndex + rows * this.columns,
      Home: 0,
      End: last,
    };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const to = Math.max(0, Math.min(last, steps[event.key]));
    const before = this.cells.get(this.focusIndex);
    if (before) before.firstChild.tabIndex = -1;
    this.focusIndex = to;
    // Into sight first, so that it is drawn, and then under the keyboard.
    const top = this.root.getBoundingClientRect().top + Math.floor(to / this.columns) * (CELL_HEIGHT + GAP);
    if (top < 80) scrollBy(0, top - 80);
    else if (top + CELL_HEIGHT > innerHeight - 8) scrollBy(0, top + CELL_HEIGHT - innerHeight + 8);
    this.draw();
    const cell = this.cells.get(to);
    cell.firstChild.tabIndex = 0;
    cell.firstChild.focus({ preventScroll: true });
  }
}
