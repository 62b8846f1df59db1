/* Maps over photographs, for every page of vitrine. One ES module without imports, which also works inline on a page
   that is opened from a file.

   Shapes of the data (those of the server's API and of the JSON inside a report):

   Array   {shape: [..], dtype: "float16" | "float32", data: base64, little-endian}, or numbers in (nested) arrays.
   Map     an Array of (rows, columns), row by row, in the scale's unit; null or NaN has no colour.
   Scale   {kind: "uniform" | "lost" | "own", high, low?, label?}. "uniform": multiples of uniform from 0 to high, 1 is
           a patch without preference. "lost": probability lost, from -high to high. "own": from low to high.
   View    {photograph, size?, grid, box, map, scale, described?, sentence?}
             photograph  an address (data: on a page from a file), "#id" of an <img> of the page, or an image, a canvas
                         or an ImageBitmap. It may be smaller than the photograph itself.
             size        [width, height] of the photograph in pixels; without it the image's own.
             grid        [rows, columns] of patches.
             box         [left, top, width, height] of the grid in the photograph's pixels; the model saw nothing else.
                         It reaches beyond the photograph where the model's input has a border.
             described   what the map is, in words: the drawing's text alternative.
   Caption {photograph, size?, grid, box, scale, words: [Word], log_probability?}
   Word    {text, probability, map, particular?, sentence?, grid?, box?}; probability null: of a word that was not
           predicted. particular false: the word did not look anywhere in particular, and is grey. sentence: what its
           check says.

   A page without code of its own marks an element with data-viewer="map" or "words", puts the View or Caption as JSON
   into a <script type="application/json"> inside it, and calls mountViewers(). */

const MANY_WORDS = 40; // above which a caption is long, as answers can be, and its words are smaller
const LUMA = [0.2126, 0.7152, 0.0722]; // Rec. 709
const INK = "#1d2730";
const HATCH_COLOUR = "rgb(102 113 125 / 0.55)";

/* The paint of maps: the numbers of plotting/colormap.py, which says why (a test compares them). [from, to] of the colour
   of a patch with more than its share, and with less; and the opacity at the scale's ends. */
const ABOVE = [[212, 54, 200], [138, 15, 143]];
const BELOW = [[224, 177, 58], [201, 154, 0]];
const OPACITY = 0.85;

/* An Array as Float32Array. */
export function decodeArray(array) {
  if (array instanceof Float32Array) return array;
  if (Array.isArray(array)) return Float32Array.from(array.flat(Infinity), (value) => (value === null ? NaN : value));
  const bytes = Uint8Array.from(atob(array.data), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  if (array.dtype === "float32") {
    return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
  }
  if (array.dtype !== "float16") throw new TypeError(`Expected float16 or float32; got ${array.dtype}.`);
  const halves = new Float32Array(bytes.length / 2);
  for (let i = 0; i < halves.length; i += 1) halves[i] = float16ToNumber(view.getUint16(2 * i, true));
  return halves;
}

function float16ToNumber(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : (fraction / 1024) * 2 ** -14);
}

/* A number for a person: three digits at most, a true minus. */
export function formatNumber(value) {
  return String(Number(value.toPrecision(3))).replace("-", "\u2212");
}

/* A probability in few letters that never says certain or impossible. */
export function formatProbability(probability) {
  if (!(probability >= 0.0005 && probability < 0.9995)) return probability < 0.5 ? "<0.1 %" : ">99.9 %";
  return `${(100 * probability).toFixed(probability >= 0.0095 && probability < 0.995 ? 0 : 1)} %`;
}

function isSigned(scale) {
  return scale.kind === "lost";
}

function scaleEnds(scale) {
  return [isSigned(scale) ? -scale.high : scale.kind === "own" ? scale.low : 0, scale.high];
}

/* The value that says nothing, where there is no paint: of "own" the least. */
function neutralValue(scale) {
  return isSigned(scale) ? 0 : scale.kind === "own" ? scale.low : 1;
}

/* How far a value is from the neutral one: -1 to 1, the scale's upper end. */
function distanceFromNeutral(scale, value) {
  const neutral = neutralValue(scale);
  return Math.max(-1, Math.min(1, (value - neutral) / Math.max(scale.high - neutral, 1e-9)));
}

/* The paint at a value: [red, green, blue, opacity]; colours from 0 to 255, the opacity from 0 to 1. */
export function paintAt(scale, value) {
  const distance = distanceFromNeutral(scale, value);
  const far = Math.abs(distance);
  const [start, end] = distance > 0 ? ABOVE : BELOW;
  return [...start.map((channel, k) => channel + far * (end[k] - channel)), OPACITY * far];
}

/* What the colours mean, in words. */
function scaleName(scale) {
  return scale.label || (isSigned(scale) ? "probability lost" : "multiple of uniform");
}

/* [red, green, blue] of a place from 0 to 1 on the scale: its paint on white. */
export function colourAt(scale, at) {
  const [low, high] = scaleEnds(scale);
  const [red, green, blue, opacity] = paintAt(scale, low + at * (high - low));
  return [red, green, blue].map((channel) => 255 - opacity * (255 - channel));
}

/* For each pixel along one axis: the interval of the grid that its middle lies in (-1 outside), and between which
   two middles of intervals it lies. */
function axisLookup(pixels, extent, start, length, count) {
  const nearest = new Int32Array(pixels);
  const lower = new Int32Array(pixels);
  const share = new Float32Array(pixels);
  for (let i = 0; i < pixels; i += 1) {
    const place = (((i + 0.5) * extent) / pixels - start) / length;
    nearest[i] = place >= 0 && place < 1 ? Math.floor(place * count) : -1;
    const at = Math.max(0, Math.min(count - 1, place * count - 0.5));
    lower[i] = Math.floor(at);
    share[i] = at - lower[i];
  }
  return { nearest, lower, share, last: count - 1 };
}

/* One row of pixels of a map, interpolated. */
function smoothRow(values, columns, down, y, across, into) {
  const upper = down.lower[y] * columns;
  const lower = Math.min(down.lower[y] + 1, down.last) * columns;
  const between = new Float32Array(columns);
  for (let k = 0; k < columns; k += 1) {
    between[k] = values[upper + k] * (1 - down.share[y]) + values[lower + k] * down.share[y];
  }
  for (let x = 0; x < into.length; x += 1) {
    const left = across.lower[x];
    const right = Math.min(left + 1, across.last);
    into[x] = between[left] * (1 - across.share[x]) + between[right] * across.share[x];
  }
}

/* The same of a map with gaps: a patch that is NaN stays so and does not touch its neighbours. */
function smoothRowWithGaps(values, columns, down, y, across, into) {
  const upper = down.lower[y] * columns;
  const lower = Math.min(down.lower[y] + 1, down.last) * columns;
  const part = down.share[y];
  const rowStart = down.nearest[y] * columns;
  for (let x = 0; x < into.length; x += 1) {
    const left = across.lower[x];
    const right = Math.min(left + 1, across.last);
    const q = across.share[x];
    const corners = [values[upper + left], values[upper + right], values[lower + left], values[lower + right]];
    const weights = [(1 - part) * (1 - q), (1 - part) * q, part * (1 - q), part * q];
    let total = 0;
    let weight = 0;
    for (let k = 0; k < 4; k += 1) {
      if (corners[k] === corners[k]) {
        total += weights[k] * corners[k];
        weight += weights[k];
      }
    }
    const there = across.nearest[x] >= 0 && !Number.isNaN(values[rowStart + across.nearest[x]]);
    into[x] = there && weight > 0 ? total / weight : NaN;
  }
}

const photoCache = new WeakMap(); // the photograph's pixels at a canvas's size, reused while only the map changes

function getPhotoPixels(canvas, image) {
  const { width, height } = canvas;
  const entry = photoCache.get(canvas);
  if (entry && entry.image === image && entry.width === width && entry.height === height) return entry.data;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = width < 3 * (image.naturalWidth || image.width); // a tiny one keeps its squares
  context.imageSmoothingQuality = "high";
  context.clearRect(0, 0, width, height);
  context.drawImage(image, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  photoCache.set(canvas, { image, width, height, data });
  return data;
}

/* A map over its photograph, filling the canvas: paint covers it the more, the farther a value is from the one that
   favours no patch. With strength 1 pixel for pixel what figures show (plotting/overlay.py); with 0 the photograph.
   What the model did not see is faded and hatched.

   options: rows, columns, box, scale; size = the image's own; strength = 1; smooth = true (false: patches as they
   are); greyscale = false (true: without colour, for a word that did not look anywhere in particular); contour = false
   (true: a line where the map crosses neutral); outlines = patches [row, column] to outline; query = the patch that
   looks, which has a frame; paper = 255, the lightness that what was not seen fades towards. map null: the photograph alone. */
export function drawOverlay(canvas, image, map, options) {
  const { rows, columns, box, scale, strength = 1, smooth = true, greyscale = false, paper = 255 } = options;
  const size = options.size || [image.naturalWidth || image.width, image.naturalHeight || image.height];
  const { width, height } = canvas;
  const photo = getPhotoPixels(canvas, image);
  const pixels = new ImageData(width, height);
  const down = axisLookup(height, size[1], box[1], box[3], rows);
  const across = axisLookup(width, size[0], box[0], box[2], columns);
  const values = map && decodeArray(map);
  const share = values ? strength : 0;
  const row = new Float32Array(width);
  const fill = !smooth ? plainRow : values && values.some(Number.isNaN) ? smoothRowWithGaps : smoothRow;
  const valuesAtPixels = values && options.contour ? new Float32Array(width * height).fill(NaN) : null;
  const colours = values && paintTable(scale);
  for (let y = 0; y < height; y += 1) {
    const isRowInside = down.nearest[y] >= 0;
    if (values && isRowInside) fill(values, columns, down, y, across, row);
    for (let x = 0; x < width; x += 1) {
      const i = 4 * (y * width + x);
      const isInside = isRowInside && across.nearest[x] >= 0;
      let cover = 0;
      let index = 0;
      if (isInside && values && !Number.isNaN(row[x])) {
        index = 4 * Math.round(2048 * (1 + distanceFromNeutral(scale, row[x])));
        cover = share * colours[index + 3];
        if (valuesAtPixels) valuesAtPixels[y * width + x] = row[x];
      }
      for (let k = 0; k < 3; k += 1) {
        const ground = isInside ? photo[i + k] : paper - 0.4 * (paper - photo[i + k]);
        pixels.data[i + k] = cover ? (1 - cover) * ground + cover * colours[index + k] : ground;
      }
      if (greyscale) fadePixel(pixels.data, i);
      pixels.data[i + 3] = 255;
    }
  }
  if (valuesAtPixels) paintContour(pixels, valuesAtPixels, neutralValue(scale));
  drawLines(canvas, pixels, { ...options, size });
}

/* The paint at 4,097 distances from -1 to 1, four numbers each, so that no pixel computes its own. */
function paintTable(scale) {
  const neutral = neutralValue(scale);
  const table = new Float32Array(4 * 4097);
  for (let i = 0; i < 4097; i += 1) table.set(paintAt(scale, neutral + (i / 2048 - 1) * (scale.high - neutral)), 4 * i);
  return table;
}

/* A white line, dark at its rims, where values cross neutral; what is no number has no side. */
function paintContour({ data, width, height }, values, neutral) {
  const reach = Math.max(1, Math.round(Math.min(width, height) / 250));
  const differ = (one, other) => !Number.isNaN(values[one]) && !Number.isNaN(values[other]) && values[one] > neutral !== values[other] > neutral;
  const edges = [];
  for (let i = 0; i < values.length; i += 1) {
    const isLast = i % width === width - 1;
    if ((!isLast && differ(i, i + 1)) || (i + width < values.length && differ(i, i + width))) edges.push([i % width, Math.floor(i / width)]);
  }
  for (const [far, [red, green, blue]] of [[reach, [29, 39, 48]], [reach - 1, [255, 255, 255]]]) {
    for (const [x, y] of edges) {
      for (let v = Math.max(0, y - far); v <= Math.min(height - 1, y + far); v += 1) {
        for (let u = Math.max(0, x - far); u <= Math.min(width - 1, x + far); u += 1) data.set([red, green, blue], 4 * (v * width + u));
      }
    }
  }
}

/* The map alone, patches as they are, where they lie on the photograph. options as drawOverlay; size is a must. */
export function drawMap(canvas, map, options) {
  const { rows, columns, box, size, scale } = options;
  const { width, height } = canvas;
  const pixels = new ImageData(width, height);
  const down = axisLookup(height, size[1], box[1], box[3], rows);
  const across = axisLookup(width, size[0], box[0], box[2], columns);
  const values = decodeArray(map);
  const [low, high] = scaleEnds(scale);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const i = 4 * (y * width + x);
      const isInside = down.nearest[y] >= 0 && across.nearest[x] >= 0;
      const value = isInside ? values[down.nearest[y] * columns + across.nearest[x]] : NaN;
      const hasValue = !Number.isNaN(value);
      pixels.data.set(hasValue ? colourAt(scale, Math.max(0, Math.min(1, (value - low) / (high - low)))) : [241, 243, 245], i);
      pixels.data[i + 3] = 255;
    }
  }
  photoCache.delete(canvas);
  drawLines(canvas, pixels, options);
}

/* Patches in colours of their own, as they are, where they lie on the photograph; what the model did not see is faded and
   hatched. options as drawOverlay, and colours: [red, green, blue] of each patch, 0 to 255, row by row. */
export function drawPatches(canvas, image, options) {
  const { rows, columns, box, colours } = options;
  const size = options.size || [image.naturalWidth || image.width, image.naturalHeight || image.height];
  const { width, height } = canvas;
  const paper = paperLightness();
  const photo = getPhotoPixels(canvas, image);
  const pixels = new ImageData(width, height);
  const down = axisLookup(height, size[1], box[1], box[3], rows);
  const across = axisLookup(width, size[0], box[0], box[2], columns);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const i = 4 * (y * width + x);
      const isInside = down.nearest[y] >= 0 && across.nearest[x] >= 0;
      const colour = isInside && colours[down.nearest[y] * columns + across.nearest[x]];
      for (let k = 0; k < 3; k += 1) pixels.data[i + k] = colour ? colour[k] : paper - 0.4 * (paper - photo[i + k]);
      pixels.data[i + 3] = 255;
    }
  }
  drawLines(canvas, pixels, { ...options, size });
}

/* One row of pixels of a map, patches as they are. */
function plainRow(values, columns, down, y, across, into) {
  const start = down.nearest[y] * columns;
  for (let x = 0; x < into.length; x += 1) into[x] = across.nearest[x] < 0 ? NaN : values[start + across.nearest[x]];
}

/* Make a pixel grey and lighter. */
function fadePixel(data, i) {
  const light = LUMA[0] * data[i] + LUMA[1] * data[i + 1] + LUMA[2] * data[i + 2];
  data.fill(63.75 + 0.75 * light, i, i + 3);
}

/* Put pixels onto the canvas, then draw lines: hatching around the grid's box, outlines of patches, the query's frame. */
function drawLines(canvas, drawn, { rows, columns, box, size, outlines = [], query = null }) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.putImageData(drawn, 0, 0);
  const zoom = [width / size[0], height / size[1]];
  const [left, top, wide, high] = [box[0] * zoom[0], box[1] * zoom[1], box[2] * zoom[0], box[3] * zoom[1]];
  const fine = Math.max(1, Math.min(width, height) / 400);
  const start = [Math.max(0, left), Math.max(0, top)]; // what was seen of the photograph: the grid without a border
  const visible = [...start, Math.min(width, left + wide) - start[0], Math.min(height, top + high) - start[1]];
  if ((visible[2] * visible[3]) / (width * height) < 1 - 1e-6) {
    context.save();
    context.beginPath();
    context.rect(0, 0, width, height);
    context.rect(...visible);
    context.clip("evenodd");
    context.beginPath();
    for (let foot = -height; foot < width; foot += 7 * fine) {
      context.moveTo(foot, height);
      context.lineTo(foot + height, 0);
    }
    context.strokeStyle = HATCH_COLOUR;
    context.lineWidth = 0.7 * fine;
    context.stroke();
    context.restore();
    context.strokeStyle = INK;
    context.lineWidth = fine;
    context.strokeRect(...visible);
  }
  const strokePatch = ([row, column], lines) => {
    for (const [colour, lineWidth] of lines) {
      Object.assign(context, { strokeStyle: colour, lineWidth: lineWidth * fine });
      context.strokeRect(left + (wide * column) / columns, top + (high * row) / rows, wide / columns, high / rows);
    }
  };
  for (const patch of outlines) strokePatch(patch, [[INK, 4], ["white", 2]]);
  if (query) strokePatch(query, [["white", 7], [INK, 3]]);
}

function createElement(name, className = "", text = "") {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

/* Values on a colour bar: round ones, and the neutral one. */
function chooseTicks(scale) {
  const [low, high] = scaleEnds(scale);
  const span = high - low;
  const mark = neutralValue(scale);
  let step = 1e-9;
  search: for (let power = -9; power < 9; power += 1) {
    for (const m of [1, 2, 2.5, 5]) {
      step = m * 10 ** power;
      if (span <= 5.01 * step) break search;
    }
  }
  const values = mark >= low && mark <= high ? [mark] : [];
  for (let i = Math.ceil(low / step - 1e-6); i * step <= high + 1e-6 * span; i += 1) {
    if (Math.abs(i * step - mark) >= 0.1 * span) values.push(i * step);
  }
  return values.sort((a, b) => a - b);
}

/* A level colour bar in an element. The neutral value (1, or 0) is marked; where the map goes beyond the scale, its
   largest value is written above the bar's end. */
export function drawColourBar(root, scale, maximum) {
  const [low, high] = scaleEnds(scale);
  const place = (value) => `${(100 * (value - low)) / (high - low)}%`;
  const name = createElement("div", "colour-bar-name");
  name.append(createElement("span", "", scaleName(scale)));
  if (maximum > high * (1 + 1e-6)) name.append(createElement("span", "beyond", `up to ${formatNumber(maximum)} \u25b8`));
  const strip = createElement("div", "colour-bar-strip");
  const canvas = createElement("canvas");
  [canvas.width, canvas.height] = [256, 1];
  const pixels = new ImageData(256, 1);
  for (let i = 0; i < 256; i += 1) {
    pixels.data.set(colourAt(scale, (i + 0.5) / 256), 4 * i);
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  strip.append(canvas);
  const below = createElement("div", "colour-bar-ticks");
  for (const value of chooseTicks(scale)) {
    const tick = createElement("span", value === neutralValue(scale) ? "nothing" : "", formatNumber(value));
    if (value - low < 0.02 * (high - low)) tick.classList.add("start");
    if (high - value < 0.02 * (high - low)) tick.classList.add("end");
    tick.style.left = place(value);
    below.append(tick);
    if (value === neutralValue(scale)) {
      const mark = createElement("i", "colour-bar-mark");
      mark.style.left = place(value);
      strip.append(mark);
    }
  }
  root.classList.add("colour-bar");
  root.setAttribute("role", "img");
  const beyond = maximum > high ? `; the largest value is ${formatNumber(maximum)}` : "";
  const means = scale.kind === "own" ? "the least has no colour" : `${formatNumber(neutralValue(scale))} means nothing in particular`;
  root.setAttribute("aria-label", `Colours: ${scaleName(scale)} from ${formatNumber(low)} to ${formatNumber(high)}; ${means}${beyond}.`);
  root.replaceChildren(name, strip, below);
}

/* Lightness of the page behind everything, 0 to 255. */
function paperLightness() {
  const parts = getComputedStyle(document.body).backgroundColor.match(/[\d.]+/g).map(Number);
  return parts.length > 3 && parts[3] === 0 ? 255 : LUMA.reduce((sum, weight, k) => sum + weight * parts[k], 0);
}

/* The photograph that a View names, as an image that can be drawn. */
export async function loadPhotograph(photograph) {
  let image = photograph;
  if (typeof photograph === "string") {
    image = photograph.startsWith("#") ? document.querySelector(photograph) : new Image();
    if (!image) throw new Error(`There is no image ${photograph} on this page.`);
    if (!photograph.startsWith("#")) image.src = photograph;
  }
  if (image.decode) await image.decode();
  return image;
}

const stages = new Set(); // redrawn when the page turns dark or light

function redraw() {
  for (const stage of stages) {
    if (stage.root.isConnected) stage.draw();
    else stages.delete(stage);
  }
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
addEventListener("themechange", redraw);

/* A canvas as wide as its place that shows a view and redraws itself when its size changes.

   show(view) takes a View with image in place of photograph, and strength, smooth, greyscale, outlines. onPatch(patch, how)
   is called with [row, column] or null while the pointer moves over it ("move"), for a click ("press"), and, where
   it is interactive, for the arrow keys ("key"). */
export class Stage {
  constructor(parent, { interactive = false, maximum = 1000 } = {}) {
    this.maximum = maximum;
    this.view = null;
    this.patch = null;
    this.onPatch = null;
    this.root = createElement("div", "stage");
    this.canvas = createElement("canvas");
    this.canvas.setAttribute("role", interactive ? "application" : "img");
    this.canvas.setAttribute("aria-label", "Photograph"); // until something is shown
    this.root.append(this.canvas);
    parent.append(this.root);
    new ResizeObserver(() => this.fit()).observe(this.root);
    const on = (kind, how) =>
      this.canvas.addEventListener(kind, (event) => this.setPatch(how === "leave" ? null : this.patchAt(event), how));
    on("pointermove", "move");
    on("pointerleave", "leave");
    on("click", "press");
    if (interactive) {
      this.canvas.tabIndex = 0;
      this.canvas.addEventListener("keydown", (event) => this.key(event));
    }
  }

  show(view) {
    this.view = { ...this.view, ...view };
    stages.add(this);
    for (const stage of stages) if (stage !== this && !stage.root.isConnected) stages.delete(stage);
    const label = this.view.described || "Photograph";
    if (this.canvas.getAttribute("aria-label") !== label) this.canvas.setAttribute("aria-label", label);
    if (!this.fit()) this.draw();
  }

  /* Fit the canvas to its place; returns true if that drew it. */
  fit() {
    if (!this.view) return false;
    const { image } = this.view;
    const [width, height] = this.view.size || [image.naturalWidth || image.width, image.naturalHeight || image.height];
    this.canvas.style.aspectRatio = `${width} / ${height}`;
    this.canvas.style.maxWidth = `calc(var(--stage-height) * ${width / height})`;
    const displayWidth = this.canvas.clientWidth * Math.min(2, window.devicePixelRatio || 1);
    const wide = Math.max(1, Math.round(Math.min(displayWidth || 1, this.maximum, this.maximum * (width / height))));
    const high = Math.max(1, Math.round((wide * height) / width));
    if (this.canvas.width === wide && this.canvas.height === high) return false;
    [this.canvas.width, this.canvas.height] = [wide, high];
    this.draw();
    return true;
  }

  draw() {
    if (!this.view || this.canvas.width < 2) return;
    const { image, map, grid, alone, ...options } = this.view;
    const all = { ...options, rows: grid[0], columns: grid[1], paper: paperLightness() };
    if (alone) drawMap(this.canvas, map, all);
    else drawOverlay(this.canvas, image, map, all);
  }

  patchAt(event) {
    if (!this.view) return null;
    const bounds = this.canvas.getBoundingClientRect();
    const { image, grid, box } = this.view;
    const size = this.view.size || [image.naturalWidth || image.width, image.naturalHeight || image.height];
    const x = (((event.clientX - bounds.left) / bounds.width) * size[0] - box[0]) / box[2];
    const y = (((event.clientY - bounds.top) / bounds.height) * size[1] - box[1]) / box[3];
    return x >= 0 && x < 1 && y >= 0 && y < 1 ? [Math.floor(y * grid[0]), Math.floor(x * grid[1])] : null;
  }

  setPatch(patch, how) {
    const same = String(patch) === String(this.patch);
    this.patch = patch;
    if (this.onPatch && !(same && how === "move")) this.onPatch(patch, how);
  }

  key(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!this.view) return;
    const [rows, columns] = this.view.grid;
    if (event.key in steps) {
      const [row, column] = this.patch || [Math.floor(rows / 2), Math.floor(columns / 2)];
      const [down, across] = this.patch ? steps[event.key] : [0, 0];
      const clamp = (value, count) => Math.max(0, Math.min(count - 1, value));
      this.setPatch([clamp(row + down, rows), clamp(column + across, columns)], "key");
    } else if (event.key === "Enter" || event.key === " ") {
      this.setPatch(this.patch, "press");
    } else if (event.key === "Escape") {
      this.setPatch(null, "leave");
    } else {
      return;
    }
    event.preventDefault();
  }
}

/* A labelled slider from 0 to 1 for an overlay's strength; onchange(strength) while it moves. */
export function createStrengthSlider(strength, onchange) {
  const label = createElement("label", "strength", "Strength");
  const slider = createElement("input");
  Object.assign(slider, { type: "range", min: 0, max: 1, step: 0.05, value: strength });
  slider.addEventListener("input", () => onchange(Number(slider.value)));
  label.append(slider);
  return label;
}

/* The value of a patch in words. */
export function describeValue(values, grid, scale, [row, column]) {
  const value = values[row * grid[1] + column];
  const change = value < 0 ? " probability gained" : " probability lost";
  const unit = isSigned(scale) ? change : scale.kind === "own" ? "" : " \u00d7 uniform";
  const describeProbability = Number.isNaN(value) ? "no value" : `${formatNumber(isSigned(scale) ? Math.abs(value) : value)}${unit}`;
  return `row ${row}, column ${column}: ${describeProbability}`;
}

export function maxOf(values) {
  let maximum = -Infinity;
  for (const value of values) if (value > maximum) maximum = value;
  return maximum;
}

/* One map over its photograph, with a slider for its strength, its colour bar, and the value under the pointer. data
   is a View. ready resolves when it is drawn. */
export class MapViewer {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.ready = this.build();
  }

  async build() {
    const { photograph, map, scale, grid, described, sentence, ...rest } = this.data;
    this.values = decodeArray(map);
    const view = { ...rest, map: this.values, scale, grid, described, strength: 1, smooth: true, outlines: [] };
    view.image = await loadPhotograph(photograph);
    this.stage = new Stage(this.root, { interactive: true });
    const row = createElement("div", "viewer-row");
    const bar = createElement("div");
    drawColourBar(bar, scale, maxOf(this.values));
    const patches = createElement("label", "tick-box");
    const box = createElement("input");
    box.type = "checkbox";
    box.addEventListener("change", () => this.stage.show({ smooth: !box.checked }));
    patches.append(box, "patches as they are");
    row.append(bar, createStrengthSlider(1, (strength) => this.stage.show({ strength })), patches);
    const readout = createElement("p", "readout", sentence || described || "");
    readout.setAttribute("aria-live", "polite");
    this.root.append(row, readout);
    this.stage.onPatch = (patch) => {
      this.stage.show({ outlines: patch ? [patch] : [] });
      readout.textContent = patch ? describeValue(this.values, grid, scale, patch) : sentence || described || "";
    };
    this.stage.show(view);
  }
}

/* A caption whose words switch the map over the photograph: by pointer, focus, tap and arrow keys. data is a Caption;
   words may be added as they come. onSelect(index, isPinned) is called when another word is shown. ready resolves when
   it is drawn. */
export class WordViewer {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.words = [];
    this.pinnedIndex = 0;
    this.shownIndex = -1;
    this.strength = data.strength ?? 1;
    this.onSelect = null;
    this.ready = this.build();
  }

  async build() {
    const { photograph, scale } = this.data;
    this.line = createElement("div", "words");
    this.line.setAttribute("role", "group");
    this.line.setAttribute("aria-label", "Words of the caption; each shows where it looked");
    this.readout = createElement("p", "readout");
    this.readout.setAttribute("aria-live", "polite");
    const row = createElement("div", "viewer-row");
    this.bar = createElement("div");
    row.append(this.bar, createStrengthSlider(this.strength, (strength) => this.show(this.shownIndex, { strength })));
    this.stage = new Stage(this.root);
    this.root.append(this.line, this.readout, row);
    this.line.addEventListener("keydown", (event) => this.key(event));
    this.line.addEventListener("pointerleave", () => this.show(this.pinnedIndex));
    drawColourBar(this.bar, scale, 0);
    const image = await loadPhotograph(photograph);
    const { size, grid, box } = this.data;
    this.stage.show({ image, size, grid, box, scale, map: null, described: "Photograph" });
    for (const word of this.data.words.slice(this.words.length)) this.add(word);
    if (this.shownIndex >= 0) this.show(this.shownIndex);
  }

  add(word) {
    const index = this.words.length;
    const values = decodeArray(word.map);
    this.words.push({ ...word, values });
    const button = createElement("button", word.particular === false ? "unparticular" : "", word.text);
    button.type = "button";
    button.tabIndex = index === this.pinnedIndex ? 0 : -1;
    button.setAttribute("aria-description", this.describeProbability(index));
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && this.show(index));
    button.addEventListener("focus", () => this.show(index));
    button.addEventListener("click", () => this.pin(index));
    this.line.append(button);
    this.root.classList.toggle("many", index >= MANY_WORDS);
    const most = Math.max(...this.words.map((each) => maxOf(each.values)));
    drawColourBar(this.bar, this.data.scale, most);
    if (this.shownIndex < 0 || this.isFollowing) this.pin(index);
  }

  /* Remove all words; another scale may follow. */
  clear() {
    this.words = [];
    this.pinnedIndex = 0;
    this.shownIndex = -1;
    this.line.replaceChildren();
    this.root.classList.remove("many");
    this.readout.replaceChildren();
  }

  pin(index) {
    const before = this.line.children[this.pinnedIndex];
    if (before) before.tabIndex = -1;
    this.pinnedIndex = index;
    this.line.children[index].tabIndex = 0;
    this.show(index, {}, true);
  }

  show(index, changes = {}, isPinned = false) {
    if (!(index >= 0 && index < this.words.length)) return;
    if (changes.strength !== undefined) this.strength = changes.strength;
    const word = this.words[index];
    const other = index !== this.shownIndex;
    this.shownIndex = index;
    [...this.line.children].forEach((button, i) => {
      button.classList.toggle("shown", i === index);
      button.setAttribute("aria-pressed", String(i === this.pinnedIndex));
    });
    this.readout.replaceChildren(createElement("strong", "", word.text), ` ${this.describeProbability(index)}`);
    if (this.stage.view) {
      const { grid, box, scale } = this.data;
      const place = { grid: word.grid || grid, box: word.box || box, scale, strength: this.strength };
      const described = `Where the captioner looked for the word \u201c${word.text}\u201d`;
      this.stage.show({ ...place, map: word.values, greyscale: word.particular === false, described });
    }
    if (this.onSelect && (other || isPinned)) this.onSelect(index, isPinned);
  }

  describeProbability(index) {
    const word = this.words[index];
    const grey = word.particular === false ? " \u00b7 did not look anywhere in particular" : "";
    const probability = word.probability === null ? "" : formatProbability(word.probability); // a prompt's word has none
    return `${probability}${grey}`;
  }

  key(event) {
    const last = this.words.length - 1;
    const to = { ArrowLeft: this.shownIndex - 1, ArrowRight: this.shownIndex + 1, Home: 0, End: last }[event.key];
    if (to === undefined || to < 0 || to > last) return;
    event.preventDefault();
    this.pin(to);
    this.line.children[to].focus();
  }
}

/* Mount every viewer of a page, at its elements with data-viewer; resolves when all are drawn. */
export function mountViewers(root = document) {
  const kinds = { map: MapViewer, words: WordViewer };
  const elements = [...root.querySelectorAll("[data-viewer]")];
  return Promise.all(
    elements.map((place) => {
      const data = JSON.parse(place.querySelector('script[type="application/json"]').textContent);
      return new kinds[place.dataset.viewer](place, data).ready;
    }),
  );
}
