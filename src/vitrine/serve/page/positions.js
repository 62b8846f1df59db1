/* The tab Positions: similarities of position embeddings as a grid of grids, one of them large, and numbers. */

import { createTerm, explainTerms } from "./terms.js";
import { getJson } from "./api.js";
import { createSelect, createElement } from "./dom.js";
import { createExportPanel } from "./export.js";
import { decodeArray, formatNumber } from "./viewer.js";

/* From -1 to 1, white at 0; the colours and stops of explain/figures/positions.py. */
const BELOW = ["#de600a", "#ea8138", "#f2a269", "#f6c29b", "#fbe0cb"];
const ABOVE = ["#ffffff", "#d6e6f2", "#a9cbe3", "#74add1", "#3f8cbc", "#1c6a9e", "#0d4a79", "#082c51"];
const STOPS = [
  ...BELOW.map((colour, i) => [i / 10, colour]),
  ...ABOVE.map((colour, i) => [0.5 + i / (2 * (ABOVE.length - 1)), colour]),
].map(([at, colour]) => [at, [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16))]);
const COLOURS = Array.from({ length: 511 }, (_, i) => interpolateColour(i / 510));
const MAX_PIXELS = 1600; // pixels of the grid of grids

function interpolateColour(at) {
  const next = Math.max(1, STOPS.findIndex(([place]) => place >= at - 1e-9));
  const [[low, from], [high, to]] = [STOPS[next - 1], STOPS[next]];
  return from.map((value, k) => Math.round(value + ((to[k] - value) * (at - low)) / (high - low)));
}

export function similarityColour(value) {
  return COLOURS[Math.max(0, Math.min(510, Math.round(255 * (value + 1))))];
}

export class PositionsPage {
  constructor(app) {
    this.app = app;
    this.answers = {};
    this.hoverCell = null;
    this.model = createElement("div", { class: "settings" });
    this.sentence = createElement("div", { class: "lead" });
    this.grid = createElement("canvas", { class: "tiles", tabindex: "0", role: "application", "aria-describedby": "tile-help" });
    this.cell = createElement("canvas", { class: "tile", role: "img" });
    this.name = createElement("h2", { class: "eyebrow", "aria-live": "polite" });
    this.readout = createElement("p", { class: "readout" });
    this.bar = createElement("div", {});
    this.numbers = createElement("div", { class: "scroll" });
    this.exportPanel = createExportPanel(app, () => this.exportViews());
    const help = "Each tile is one patch of the input: how alike its position embedding is to those of all patches, laid out on the grid.";
    this.root = createElement(
      "div",
      { class: "page positions" },
      createElement("div", { class: "heading" }, createElement("h1", { class: "title" }, "Was position learned?"), this.model),
      this.sentence,
      createElement(
        "figure",
        { class: "all" },
        this.grid,
        createElement("figcaption", { id: "tile-help" }, `${help} Move over a tile to see it large; click, or Enter, keeps it.`),
      ),
      createElement("div", { class: "large" }, this.name, this.cell, this.readout, this.bar),
      createElement("div", { class: "facts" }, this.numbers, this.exportPanel.root),
    );
    this.listenToPointer();
  }

  listenToPointer() {
    const cellAt = (canvas, event) => {
      if (!this.result) return null;
      const bounds = canvas.getBoundingClientRect();
      const [rows, columns] = this.result.grid;
      const row = Math.floor(((event.clientY - bounds.top) / bounds.height) * rows);
      const column = Math.floor(((event.clientX - bounds.left) / bounds.width) * columns);
      return row >= 0 && row < rows && column >= 0 && column < columns ? [row, column] : null;
    };
    this.grid.addEventListener("pointermove", (event) => this.hover(cellAt(this.grid, event)));
    this.grid.addEventListener("pointerleave", () => this.hover(null));
    this.grid.addEventListener("click", (event) => this.selectCell(cellAt(this.grid, event)));
    this.grid.addEventListener("keydown", (event) => this.onKey(event));
    this.cell.addEventListener("pointermove", (event) => this.drawReadout(cellAt(this.cell, event)));
    this.cell.addEventListener("pointerleave", () => this.drawReadout(null));
    new ResizeObserver(() => this.draw()).observe(this.root);
  }

  async update(state) {
    const models = this.app.models.filter((model) => model.has_positions);
    const model = models.find((each) => each.id === state.model) || models[0];
    if (!model) {
      this.sentence.replaceChildren(createElement("p", {}, "No model that is served has learned position embeddings to show."));
      return;
    }
    this.model.replaceChildren(
      ...(models.length > 1 ? [createSelect("Model", models.map(({ id, name }) => [id, name]), model.id, (id) => this.app.set({ model: id, cell: "" }, true))] : []),
    );
    if (this.modelId !== model.id) {
      this.modelId = model.id;
      this.result = null;
      try {
        const answer = (this.answers[model.id] ??= await getJson("/api/positions", { model: model.id }));
        if (this.modelId !== model.id) return;
        this.result = { ...answer, model, values: decodeArray(answer.similarity) };
        this.drawText();
      } catch (error) {
        this.modelId = "";
        this.app.showError(error, () => this.app.set({}));
        return;
      }
    }
    this.draw();
  }

  drawText() {
    const { sentences, numbers, model, grid } = this.result;
    this.sentence.replaceChildren(...sentences.map((sentence, i) => createElement("p", { class: i ? "small grey" : null }, explainTerms(sentence))));
    this.grid.setAttribute("aria-label", `Similarity of ${grid[0]} by ${grid[1]} position embeddings of ${model.name}. Arrow keys move between tiles.`);
    const formatValue = (value) => (value === null || value === undefined ? "not defined" : formatNumber(Number(value.toFixed(3))));
    const columns = [["value", "this model"], ["untrained", "untrained"], ["sine", "fixed sine"]].filter(([key]) => numbers.some((each) => key in each));
    const body = numbers.map((each) =>
      createElement("tr", {}, createElement("th", { scope: "row" }, createTerm(each.name, each.meaning)), columns.map(([key]) => createElement("td", { class: "number" }, formatValue(each[key])))),
    );
    this.numbers.replaceChildren(
      createElement(
        "table",
        {},
        createElement("caption", {}, "The numbers behind the sentence, beside embeddings that know nothing and that know all"),
        createElement("thead", {}, createElement("tr", {}, createElement("td", {}), columns.map(([, words]) => createElement("th", { scope: "col", class: "number" }, words)))),
        createElement("tbody", {}, body),
      ),
    );
  }

  get currentCell() {
    const [rows, columns] = this.result.grid;
    const selection = this.app.state.cell.split(",").map(Number);
    const isValid = selection.length === 2 && selection.every(Number.isInteger) && selection[0] < rows && selection[1] < columns && Math.min(...selection) >= 0;
    return this.hoverCell || (isValid ? selection : [Math.floor(rows / 2), Math.floor(columns / 2)]);
  }

  hover(cell) {
    if (String(cell) === String(this.hoverCell)) return;
    this.hoverCell = cell;
    this.drawCell();
  }

  selectCell(cell) {
    if (cell) this.app.set({ cell: cell.join(",") }, false);
  }

  onKey(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!this.result || !(event.key in steps || event.key === "Enter")) return;
    event.preventDefault();
    const [down, across] = steps[event.key] || [0, 0];
    const [row, column] = this.currentCell;
    const clamp = (value, count) => Math.max(0, Math.min(count - 1, value));
    this.hoverCell = null;
    this.selectCell([clamp(row + down, this.result.grid[0]), clamp(column + across, this.result.grid[1])]);
  }

  draw() {
    if (!this.result || !this.root.isConnected) return;
    this.drawTiles();
    this.drawBar();
    this.drawCell();
    this.exportPanel.update();
  }

  /* All maps as one image; a gap of one unit between tiles. */
  drawTiles() {
    const { grid, values } = this.result;
    const [rows, columns] = grid;
    const width = Math.min(MAX_PIXELS, this.grid.clientWidth * Math.min(2, devicePixelRatio));
    const unit = Math.max(1, Math.floor((width / columns - 1) / columns));
    const [wide, high] = [columns * (columns * unit + 1) - 1, rows * (rows * unit + 1) - 1];
    const key = `${this.result.model.id} ${unit}`;
    if (this.tilesKey === key) return;
    this.tilesKey = key;
    [this.grid.width, this.grid.height] = [wide, high];
    const pixels = new ImageData(wide, high);
    for (let y = 0; y < high; y += 1) {
      const [row, down] = [Math.floor(y / (rows * unit + 1)), Math.floor((y % (rows * unit + 1)) / unit)];
      for (let x = 0; x < wide; x += 1) {
        const [column, across] = [Math.floor(x / (columns * unit + 1)), Math.floor((x % (columns * unit + 1)) / unit)];
        if (down >= rows || across >= columns) continue; // a gap: the page shows through
        const value = values[(row * columns + column) * rows * columns + down * columns + across];
        const i = 4 * (y * wide + x);
        pixels.data.set(similarityColour(value), i);
        pixels.data[i + 3] = 255;
      }
    }
    this.grid.getContext("2d").putImageData(pixels, 0, 0);
  }

  drawCell() {
    if (!this.result) return;
    const { grid, values } = this.result;
    const [rows, columns] = grid;
    const [row, column] = this.currentCell;
    const unit = Math.max(4, Math.floor((Math.min(640, this.cell.clientWidth || 320) * Math.min(2, devicePixelRatio)) / columns));
    [this.cell.width, this.cell.height] = [columns * unit, rows * unit];
    const context = this.cell.getContext("2d");
    const start = (row * columns + column) * rows * columns;
    for (let i = 0; i < rows * columns; i += 1) {
      context.fillStyle = `rgb(${similarityColour(values[start + i]).join(" ")})`;
      context.fillRect((i % columns) * unit, Math.floor(i / columns) * unit, unit - 1, unit - 1);
    }
    for (const [colour, width] of [["white", 5], ["#1d2730", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.strokeRect(column * unit, row * unit, unit - 1, unit - 1);
    }
    const name = `Patch in row ${row}, column ${column}`;
    this.name.textContent = name;
    this.cell.setAttribute("aria-label", `${name}: its similarity to every patch`);
    this.drawReadout(null);
    this.drawFrame();
  }

  /* A frame around the tile that is shown large. */
  drawFrame() {
    this.frame ??= this.grid.parentElement.insertBefore(createElement("i", { class: "frame", "aria-hidden": "true" }), this.grid.nextSibling);
    const [rows, columns] = this.result.grid;
    const [row, column] = this.currentCell;
    const at = (index, count, extent) => `${(extent * index) / count}px`;
    this.frame.style.left = at(column, columns, this.grid.clientWidth);
    this.frame.style.top = at(row, rows, this.grid.clientHeight);
    this.frame.style.width = at(1, columns, this.grid.clientWidth);
    this.frame.style.height = at(1, rows, this.grid.clientHeight);
  }

  drawReadout(other) {
    if (!this.result) return;
    const { grid, values } = this.result;
    const [row, column] = this.currentCell;
    const count = grid[0] * grid[1];
    const index = row * grid[1] + column;
    const place = (i) => `row ${Math.floor(i / grid[1])}, column ${i % grid[1]}`;
    if (other) {
      const i = other[0] * grid[1] + other[1];
      this.readout.textContent = `With ${place(i)}: ${formatNumber(Number(values[index * count + i].toFixed(3)))}`;
      return;
    }
    let best = index ? 0 : 1;
    for (let i = 0; i < count; i += 1) if (i !== index && values[index * count + i] > values[index * count + best]) best = i;
    this.readout.textContent = count > 1 ? `Most alike: ${place(best)}, ${formatNumber(Number(values[index * count + best].toFixed(3)))}` : "";
  }

  drawBar() {
    if (this.bar.firstChild) return;
    const canvas = createElement("canvas", { width: 511, height: 1 });
    const pixels = new ImageData(511, 1);
    COLOURS.forEach((colour, i) => pixels.data.set([...colour, 255], 4 * i));
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    const tick = (value, left, name) => createElement("span", { class: name, css: { left } }, value);
    this.bar.className = "colour-bar";
    this.bar.setAttribute("role", "img");
    this.bar.setAttribute("aria-label", "Colours: cosine similarity from \u22121 to 1.");
    this.bar.append(
      createElement("div", { class: "colour-bar-name" }, "cosine similarity"),
      createElement("div", { class: "colour-bar-strip" }, canvas),
      createElement("div", { class: "colour-bar-ticks" }, tick("\u22121", "0%", "start"), tick("0", "50%", "nothing"), tick("1", "100%", "end")),
    );
  }

  /* The grid of grids, and the selected tile. */
  exportViews() {
    if (!this.result) return [];
    const { model, command } = this.result;
    const all = { picture: null, model: model.id, parameters: { figure: "positions" }, command, name: "positions" };
    if (!this.app.state.cell) return [all];
    const [row, column] = this.currentCell;
    const name = `positions-${row}-${column}`;
    const cellCommand = `${command.replace("positions.png", `${name}.png`)} --cell ${row},${column}`;
    return [all, { ...all, parameters: { ...all.parameters, cell: `${row},${column}` }, command: cellCommand, name }];
  }
}
