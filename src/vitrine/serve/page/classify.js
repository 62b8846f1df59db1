/* The tab Classify: what the model says of a picture, what it looks at, and whether to believe that. */

import { answersPanel } from "./answers.js";
import { h, segments } from "./dom.js";
import { PicturePage } from "./looking.js";
import { MapPane } from "./pane.js";
import { takeAway } from "./take.js";
import { verdictPanel } from "./verdict.js";
import { chance, colourBar, largest, strengthSlider, valueAt } from "./viewer.js";

export function classifyPage(app) {
  return new ClassifyPage(app);
}

class ClassifyPage extends PicturePage {
  constructor(app) {
    super(app);
    this.patch = null; // under the pointer: [row, column] of the first pane's grid, as shares of the grid
    this.first = this.pane("First map", "");
    this.second = null;
    this.panes = h("div", { class: "panes" }, this.first.root);
    this.readout = h("p", { class: "readout", "aria-live": "polite" });
    this.bar = h("div", {});
    this.slider = strengthSlider(Number(app.state.strength), (strength) => app.set({ strength: String(strength) }));
    this.tools = h("div", { class: "tools" });
    this.answers = answersPanel(app);
    this.take = takeAway(app, () => this.taken());
    this.beside = h("button", { type: "button", onclick: () => this.toggle() });
    this.instruments = h("div", { class: "instruments" }, this.tools, this.bar, this.slider);
    this.stageArea = h(
      "div",
      { class: "looking" },
      h("div", { class: "heading" }, this.title, this.beside),
      h("div", { class: "shown" }, this.panes, this.readout),
      this.instruments,
    );
    this.side = h("aside", { class: "side", "aria-label": "What it says" }, this.answers.root, this.first.verdict.root, this.take.root);
    this.root = h("div", { class: "page classify" }, this.tray.root, this.stageArea, this.side, this.blank);
  }

  pane(label, suffix) {
    const made = new MapPane(this.app, {
      label,
      onset: (changes) => {
        const named = Object.entries(changes).map(([key, value]) => [key === "model" && suffix ? "beside" : key + (key === "model" ? "" : suffix), value]);
        const layer = "model" in changes ? { [`layer${suffix}`]: "-1", [`head${suffix}`]: "mean" } : {};
        this.app.set({ ...layer, ...Object.fromEntries(named), ...(suffix ? {} : { query: "" }) }, !("layer" in changes));
      },
      onpatch: (pane, patch, how) => this.over(pane, patch, how),
      onloaded: () => this.draw(),
    });
    made.verdict = verdictPanel(this.app);
    return made;
  }

  /* One map, or two side by side: the other model where there is one, else the first layer of this one. */
  toggle() {
    const { state } = this.app;
    if (state.beside) {
      this.app.set({ beside: "" }, true);
      return;
    }
    const own = this.model(state);
    const other = this.app.classifiers().find((model) => model.id !== own.id);
    const layer2 = other ? state.layer : "0";
    this.app.set({ beside: (other || own).id, layer2: Number(layer2) < (other || own).layers ? layer2 : "-1" }, true);
  }

  model(state) {
    return this.app.model(state.model) || this.app.classifiers()[0] || null;
  }

  async update(state) {
    const model = this.model(state);
    if (!model) {
      this.say("No classifier is served", "Start it with one: vitrine serve RUN, or vitrine serve vitrine/scenes-tiny.");
      return;
    }
    const picture = await this.pictureOf(state, model, "Look inside", "Choose, drop or paste a picture to see what the model makes of it.");
    if (!picture) return;
    this.title.textContent = picture.label === null ? picture.title : `${picture.title} \u00b7 ${picture.label}`;
    this.updatePanes(state, model, picture);
  }

  updatePanes(state, model, picture) {
    const models = this.app.classifiers();
    const other = state.beside ? this.app.model(state.beside) : null;
    const changes = { ...possible(model, "method", state), ...(other && possible(other, "method2", state)) };
    if (Object.keys(changes).length) {
      this.app.set(changes);
      return;
    }
    this.beside.textContent = other ? "One map" : "Compare side by side";
    if (other && !this.second) this.second = this.pane("Second map", "2");
    if (other && !this.second.root.isConnected) {
      this.panes.append(this.second.root);
      this.first.verdict.root.after(this.second.verdict.root);
      this.second.verdict.name("second");
    }
    if (!other && this.second) {
      this.second.verdict.clear();
      this.second.verdict.root.remove();
      this.second.root.remove();
      this.second = null;
    }
    this.first.verdict.name(other ? "first" : "");
    this.panes.classList.toggle("two", Boolean(other));
    this.stageArea.classList.toggle("one", !other);
    // One map's settings are among the instruments; two maps have each its own above it.
    const home = other ? this.first.root : this.instruments;
    if (this.first.controls.parentElement !== home) home.prepend(this.first.controls);
    const { query, direction } = state;
    const target = (its) => (its.labels.includes(state.target) ? state.target : "");
    const own = { method: state.method, layer: state.layer, head: state.head };
    this.first.settings(model, models, own);
    this.first.load(picture, model, { ...own, target: target(model), query: query || reader(model), direction });
    if (other) {
      const its = { method: state.method2, layer: state.layer2, head: state.head2 };
      const same = String(other.grid) === String(model.grid);
      this.second.settings(other, models, its);
      this.second.load(picture, other, { ...its, target: target(other), query: (same && query) || reader(other), direction });
    }
    this.shownTools(state);
    this.draw();
  }

  shownTools({ method, over, patches, query }) {
    const drawn = JSON.stringify([method, over, patches, query]);
    if (drawn === this.drawnTools) return;
    this.drawnTools = drawn;
    const focused = this.tools.contains(document.activeElement) ? document.activeElement.value : null;
    const box = h("input", { type: "checkbox", onchange: () => this.app.set({ patches: box.checked ? "1" : "" }) });
    box.checked = patches === "1";
    const moving = [
      ["from", "what a patch attends to"],
      ["to", "who attends to it"],
      ["value", "the map\u2019s values"],
    ];
    this.tools.replaceChildren(
      ...[
        method === "attention" && segments("Move over the picture to see", moving, over, (value) => this.app.set({ over: value })),
        h("label", { class: "tick-box" }, box, "patches as they are"),
        query && h("button", { type: "button", onclick: () => this.app.set({ query: "", direction: "from" }, true) }, "Back to the model\u2019s own map"),
      ].filter(Boolean),
    );
    if (focused) this.tools.querySelector(`[value="${focused}"]`)?.focus();
  }

  /* The pointer (or the arrow keys) on a patch of either map. */
  over(pane, patch, how) {
    const { state } = this.app;
    if (how === "press") {
      if (!patch || !this.first.result || state.method !== "attention" || state.over === "value") return;
      // Of the first pane's grid, whichever pane was pressed.
      const query = patch.map((at, axis) => Math.floor(((at + 0.5) / pane.result.grid[axis]) * this.first.result.grid[axis])).join(",");
      const again = query === state.query && state.over === state.direction;
      this.app.set(again ? { query: "", direction: "from" } : { query, direction: state.over }, true);
      return;
    }
    this.patch = patch && pane.result ? patch.map((at, axis) => (at + 0.5) / pane.result.grid[axis]) : null;
    this.draw();
  }

  /* What each pane shows at this moment: the map that was asked for, or that of the patch under the pointer. */
  views() {
    const { state } = this.app;
    const panes = [this.first, this.second].filter((pane) => pane?.result && pane.image);
    return panes.map((pane) => {
      const { grid, scale, described } = pane.result;
      const patch = this.patch && this.patch.map((share, axis) => Math.floor(share * grid[axis]));
      const looks = patch && state.over !== "value" && pane.parameters.method === "attention";
      const matrix = looks ? pane.attention() : null;
      const pinned = pane.parameters.query ? [pane.parameters.query.split(",").map(Number)] : [];
      const outliers = pinned.length || patch ? [] : pane.verdict.outliers(pane);
      const marked = patch ? [patch] : [...pinned, ...outliers];
      if (!matrix) return { pane, map: pane.values, scale, described, marked, outliers, patch };
      const at = `row ${patch[0] + 1}, column ${patch[1] + 1}`;
      const words = state.over === "from" ? `What the patch in ${at} attends to` : `Who attends to the patch in ${at}`;
      return { pane, map: matrix.map(patch, state.over), scale: matrix.scale(state.over), described: words, marked, outliers, patch };
    });
  }

  draw() {
    const { state } = this.app;
    const views = this.views();
    const panes = [this.first, this.second].filter(Boolean);
    const none = (pane) => !pane.result && pane.place.hidden; // its map did not come: what stands beside it is of another
    for (const pane of panes.filter(none)) pane.verdict.clear();
    if (none(this.first) || this.first.result) this.answers.update(none(this.first) ? [] : panes.filter((pane) => pane.result));
    this.take.update();
    if (!views.length) return;
    const { size } = views[0].pane.result;
    this.stageArea.style.setProperty("--aspect", String(size[0] / size[1]));
    const kinds = new Set(views.map(({ scale }) => scale.kind));
    const high = Math.max(...views.map(({ scale }) => scale.high));
    const look = { strength: Number(state.strength), smooth: state.patches !== "1" };
    for (const view of views) {
      const scale = kinds.size === 1 ? { ...view.scale, high } : view.scale;
      view.shown = scale;
      view.pane.show({ map: view.map, scale, described: view.described, marked: view.marked, ...look });
    }
    this.drawBar(views, kinds.size === 1);
    this.readout.replaceChildren(...this.read(views));
    if (!this.patch) for (const { pane, shown } of views) pane.verdict.update(pane, shown);
  }

  drawBar(views, same) {
    const bars = same ? [[views[0].shown, Math.max(...views.map(({ map }) => largest(map)))]] : views.map(({ shown, map }) => [shown, largest(map)]);
    while (this.bar.children.length > bars.length) this.bar.lastChild.remove();
    while (this.bar.children.length < bars.length) this.bar.append(h("div", {}));
    this.bar.className = "bars";
    bars.forEach(([scale, most], index) => {
      const place = this.bar.children[index];
      const drawn = JSON.stringify([scale, most.toPrecision(3)]);
      if (place.dataset.drawn === drawn) return;
      place.dataset.drawn = drawn;
      colourBar(place, scale, most);
    });
  }

  read(views) {
    const { state } = this.app;
    const [{ pane, map, scale, patch }] = views;
    if (patch) {
      const value = valueAt(pane.values, pane.result.grid, pane.result.scale, patch);
      const looks = state.over !== "value" && pane.parameters.method === "attention";
      if (!looks) return views.map((each) => h("span", {}, `${valueAt(each.map, each.pane.result.grid, each.scale, each.patch)}. `));
      const words = state.over === "from" ? "What it attends to" : "Who attends to it";
      const hint = this.app.state.query ? "" : " Click to keep it.";
      return [h("strong", {}, words), ` \u00b7 ${value}, itself ${valueAt(map, pane.result.grid, scale, patch).split(": ")[1]}.${hint}`];
    }
    const share = pane.result.prefix_share;
    const held = share === null || share === undefined ? "" : ` The prefix tokens hold ${chance(share)} of the attention; colours show the rest.`;
    const apart = views.length > 1 && views[0].scale.kind !== views[1].scale.kind ? " The two maps have different units, and a scale each." : "";
    const unseen = pane.picture.unshown ? " This browser cannot show this format: the photograph is a grey sheet." : "";
    const outlined = views.some(({ outliers }) => outliers.length) ? " Outlined: outlier tokens, whose place says little." : "";
    return [held + outlined + apart + unseen];
  }

  taken() {
    const panes = [this.first, this.second].filter((pane) => pane?.result);
    return panes.map(({ picture, model, parameters, result }, index) => ({
      picture,
      model: model.id,
      parameters: { ...parameters, figure: "map" },
      command: result.command,
      name: `${picture.stem}-${parameters.method}${index ? "-beside" : ""}`,
    }));
  }
}

/* Who looks, where the address does not say: "" is what the model reads out by; a model without such a token is asked
   about the patch in its middle. */
function reader({ queries, grid }) {
  return queries.length ? "" : grid.map((size) => Math.floor(size / 2)).join(",");
}

/* The change of a view whose method this model cannot give; none where it can. */
function possible({ methods }, key, state) {
  return methods.length && !methods.includes(state[key]) ? { [key]: methods[0] } : {};
}
