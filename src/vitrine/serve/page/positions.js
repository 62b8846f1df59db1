/* The tab Positions: how alike the position embeddings are, as a grid of grids, one of them large, and the numbers. */

import { getJson } from "./api.js";
import { choice, h } from "./dom.js";
import { takeAway } from "./take.js";
import { decodeArray, number } from "./viewer.js";

/* From -1 to 1, white at 0; the colours of report/position_tiles.py, whose arms have these places. */
const BELOW = ["#de600a", "#ea8138", "#f2a269", "#f6c29b", "#fbe0cb"];
const ABOVE = ["#ffffff", "#d6e6f2", "#a9cbe3", "#74add1", "#3f8cbc", "#1c6a9e", "#0d4a79", "#082c51"];
const STOPS = [
  ...BELOW.map((colour, i) => [i / 10, colour]),
  ...ABOVE.map((colour, i) => [0.5 + i / (2 * (ABOVE.length - 1)), colour]),
].map(([at, colour]) => [at, [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16))]);
const COLOURS = Array.from({ length: 511 }, (_, i) => between(i / 510));
const LARGEST = 1600; // pixels of the grid of grids

function between(at) {
  const next = Math.max(1, STOPS.findIndex(([place]) => place >= at - 1e-9));
  const [[low, from], [high, to]] = [STOPS[next - 1], STOPS[next]];
  return from.map((value, k) => Math.round(value + ((to[k] - value) * (at - low)) / (high - low)));
}

export function similarityColour(value) {
  return COLOURS[Math.max(0, Math.min(510, Math.round(255 * (value + 1))))];
}

export function positionsPage(app) {
  return new PositionsPage(app);
}

class PositionsPage {
  constructor(app) {
    this.app = app;
    this.kept = {};
    this.over = null;
    this.model = h("div", { class: "settings" });
    this.sentence = h("div", { class: "lead" });
    this.grid = h("canvas", { class: "tiles", tabindex: "0", role: "application", "aria-describedby": "tile-help" });
    this.cell = h("canvas", { class: "tile", role: "img" });
    this.name = h("h2", { class: "eyebrow", "aria-live": "polite" });
    this.readout = h("p", { class: "readout" });
    this.bar = h("div", {});
    this.numbers = h("div", { class: "scroll" });
    this.take = takeAway(app, () => this.taken());
    const help = "Each tile is one patch of the input: how alike its position embedding is to those of all patches, laid out on the grid.";
    this.root = h(
      "div",
      { class: "page positions" },
      h("div", { class: "heading" }, h("h1", { class: "title" }, "Was position learned?"), this.model),
      this.sentence,
      h(
        "figure",
        { class: "all" },
        this.grid,
        h("figcaption", { id: "tile-help" }, `${help} Move over a tile to see it large; click, or Enter, keeps it.`),
      ),
      h("div", { class: "large" }, this.name, this.cell, this.readout, this.bar),
      h("div", { class: "known" }, this.numbers, this.take.root),
    );
    this.listen();
  }

  listen() {
    const at = (canvas, event) => {
      if (!this.found) return null;
      const bounds = canvas.getBoundingClientRect();
      const [rows, columns] = this.found.grid;
      const row = Math.floor(((event.clientY - bounds.top) / bounds.height) * rows);
      const column = Math.floor(((event.clientX - bounds.left) / bounds.width) * columns);
      return row >= 0 && row < rows && column >= 0 && column < columns ? [row, column] : null;
    };
    this.grid.addEventListener("pointermove", (event) => this.show(at(this.grid, event)));
    this.grid.addEventListener("pointerleave", () => this.show(null));
    this.grid.addEventListener("click", (event) => this.keep(at(this.grid, event)));
    this.grid.addEventListener("keydown", (event) => this.key(event));
    this.cell.addEventListener("pointermove", (event) => this.read(at(this.cell, event)));
    this.cell.addEventListener("pointerleave", () => this.read(null));
    new ResizeObserver(() => this.draw()).observe(this.root);
  }

  async update(state) {
    const models = this.app.models.filter((model) => model.has_positions);
    const model = models.find((each) => each.id === state.model) || models[0];
    if (!model) {
      this.sentence.replaceChildren(h("p", {}, "No model that is served has learned position embeddings to show."));
      return;
    }
    this.model.replaceChildren(
      ...(models.length > 1 ? [choice("Model", models.map(({ id, name }) => [id, name]), model.id, (id) => this.app.set({ model: id, cell: "" }, true))] : []),
    );
    if (this.asked !== model.id) {
      this.asked = model.id;
      this.found = null;
      try {
        const answer = (this.kept[model.id] ??= await getJson("/api/positions", { model: model.id }));
        if (this.asked !== model.id) return;
        this.found = { ...answer, model, values: decodeArray(answer.similarity) };
        this.write();
      } catch (error) {
        this.asked = "";
        this.app.trouble(error, () => this.app.set({}));
        return;
      }
    }
    this.draw();
  }

  write() {
    const { sentences, numbers, model, grid } = this.found;
    this.sentence.replaceChildren(...sentences.map((sentence, i) => h("p", { class: i ? "small grey" : null }, sentence)));
    this.grid.setAttribute("aria-label", `Similarity of ${grid[0]} by ${grid[1]} position embeddings of ${model.name}. Arrow keys move between tiles.`);
    const said = (value) => (value === null || value === undefined ? "not defined" : number(Number(value.toFixed(3))));
    const columns = [["value", "this model"], ["untrained", "untrained"], ["sine", "fixed sine"]].filter(([key]) => numbers.some((each) => key in each));
    const body = numbers.map((each) =>
      h("tr", {}, h("th", { scope: "row" }, each.name), columns.map(([key]) => h("td", { class: "number" }, said(each[key])))),
    );
    this.numbers.replaceChildren(
      h(
        "table",
        {},
        h("caption", {}, "The numbers behind the sentence, beside embeddings that know nothing and that know all"),
        h("thead", {}, h("tr", {}, h("td", {}), columns.map(([, words]) => h("th", { scope: "col", class: "number" }, words)))),
        h("tbody", {}, body),
      ),
    );
  }

  get chosen() {
    const [rows, columns] = this.found.grid;
    const kept = this.app.state.cell.split(",").map(Number);
    const there = kept.length === 2 && kept.every(Number.isInteger) && kept[0] < rows && kept[1] < columns && Math.min(...kept) >= 0;
    return this.over || (there ? kept : [Math.floor(rows / 2), Math.floor(columns / 2)]);
  }

  show(cell) {
    if (String(cell) === String(this.over)) return;
    this.over = cell;
    this.drawCell();
  }

  keep(cell) {
    if (cell) this.app.set({ cell: cell.join(",") }, false);
  }

  key(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!this.found || !(event.key in steps || event.key === "Enter")) return;
    event.preventDefault();
    const [down, across] = steps[event.key] || [0, 0];
    const [row, column] = this.chosen;
    const clamp = (value, count) => Math.max(0, Math.min(count - 1, value));
    this.over = null;
    this.keep([clamp(row + down, this.found.grid[0]), clamp(column + across, this.found.grid[1])]);
  }

  draw() {
    if (!this.found || !this.root.isConnected) return;
    this.drawTiles();
    this.drawBar();
    this.drawCell();
    this.take.update();
  }

  /* All maps as one image; a gap of one unit between tiles. */
  drawTiles() {
    const { grid, values } = this.found;
    const [rows, columns] = grid;
    const wanted = Math.min(LARGEST, this.grid.clientWidth * Math.min(2, devicePixelRatio));
    const unit = Math.max(1, Math.floor((wanted / columns - 1) / columns));
    const [wide, high] = [columns * (columns * unit + 1) - 1, rows * (rows * unit + 1) - 1];
    const drawn = `${this.found.model.id} ${unit}`;
    if (this.drawnTiles === drawn) return;
    this.drawnTiles = drawn;
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
    if (!this.found) return;
    const { grid, values } = this.found;
    const [rows, columns] = grid;
    const [row, column] = this.chosen;
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
    const name = `Patch in row ${row + 1}, column ${column + 1}`;
    this.name.textContent = name;
    this.cell.setAttribute("aria-label", `${name}: its similarity to every patch`);
    this.read(null);
    this.mark();
  }

  /* A frame around the tile that is shown large. */
  mark() {
    this.frame ??= this.grid.parentElement.insertBefore(h("i", { class: "frame", "aria-hidden": "true" }), this.grid.nextSibling);
    const [rows, columns] = this.found.grid;
    const [row, column] = this.chosen;
    const at = (index, count, extent) => `${(extent * index) / count}px`;
    this.frame.style.left = at(column, columns, this.grid.clientWidth);
    this.frame.style.top = at(row, rows, this.grid.clientHeight);
    this.frame.style.width = at(1, columns, this.grid.clientWidth);
    this.frame.style.height = at(1, rows, this.grid.clientHeight);
  }

  read(other) {
    if (!this.found) return;
    const { grid, values } = this.found;
    const [row, column] = this.chosen;
    const count = grid[0] * grid[1];
    const own = row * grid[1] + column;
    const place = (i) => `row ${Math.floor(i / grid[1]) + 1}, column ${(i % grid[1]) + 1}`;
    if (other) {
      const i = other[0] * grid[1] + other[1];
      this.readout.textContent = `With ${place(i)}: ${number(Number(values[own * count + i].toFixed(3)))}`;
      return;
    }
    let best = own ? 0 : 1;
    for (let i = 0; i < count; i += 1) if (i !== own && values[own * count + i] > values[own * count + best]) best = i;
    this.readout.textContent = count > 1 ? `Most alike: ${place(best)}, ${number(Number(values[own * count + best].toFixed(3)))}` : "";
  }

  drawBar() {
    if (this.bar.firstChild) return;
    const canvas = h("canvas", { width: 511, height: 1 });
    const pixels = new ImageData(511, 1);
    COLOURS.forEach((colour, i) => pixels.data.set([...colour, 255], 4 * i));
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    const tick = (value, left, name) => h("span", { class: name, css: { left } }, value);
    this.bar.className = "colour-bar";
    this.bar.setAttribute("role", "img");
    this.bar.setAttribute("aria-label", "Colours: cosine similarity from \u22121 to 1.");
    this.bar.append(
      h("div", { class: "colour-bar-name" }, "cosine similarity"),
      h("div", { class: "colour-bar-strip" }, canvas),
      h("div", { class: "colour-bar-ticks" }, tick("\u22121", "0%", "start"), tick("0", "50%", "nothing"), tick("1", "100%", "end")),
    );
  }

  /* The grid of grids, and the tile that was kept. */
  taken() {
    if (!this.found) return [];
    const { model, command } = this.found;
    const all = { picture: null, model: model.id, parameters: { figure: "positions" }, command, name: "positions" };
    if (!this.app.state.cell) return [all];
    const [row, column] = this.chosen;
    const name = `positions-${row + 1}-${column + 1}`;
    const its = `${command.replace("positions.png", `${name}.png`)} --cell ${row + 1},${column + 1}`;
    return [all, { ...all, parameters: { ...all.parameters, cell: `${row},${column}` }, command: its, name }];
  }
}
