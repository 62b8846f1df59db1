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
   Word    {text, probability, map, particular?, sentence?, grid?, box?}; particular false: the word did not look
           anywhere in particular, and is grey. sentence: what its check says.

   A page without code of its own marks an element with data-viewer="map" or "words", puts the View or Caption as JSON
   into a <script type="application/json"> inside it, and calls mountViewers(). */

const LUMA = [0.2126, 0.7152, 0.0722]; // Rec. 709
const INK = "#1d2730";
const HATCH_COLOUR = "rgb(102 113 125 / 0.55)";

const INFERNO = parseColours(
  "00000401000501010601010802010a02020c02020e03021004031204031405041706041907051b08051d09061f0a07220b07240c0826" +
  "0d08290e092b10092d110a30120a32140b34150b37160b39180c3c190c3e1b0c411c0c431e0c451f0c48210c4a230c4c240c4f260c51" +
  "280b53290b552b0b572d0b592f0a5b310a5c320a5e340a5f3609613809623909633b09643d09653e0966400a67420a68440a68450a69" +
  "470b6a490b6a4a0c6b4c0c6b4d0d6c4f0d6c510e6c520e6d540f6d550f6d57106e59106e5a116e5c126e5d126e5f136e61136e62146e" +
  "64156e65156e67166e69166e6a176e6c186e6d186e6f196e71196e721a6e741a6e751b6e771c6d781c6d7a1d6d7c1d6d7d1e6d7f1e6c" +
  "801f6c82206c84206b85216b87216b88226a8a226a8c23698d23698f24699025689225689326679526679727669827669a28659b2964" +
  "9d29649f2a63a02a63a22b62a32c61a52c60a62d60a82e5fa92e5eab2f5ead305dae305cb0315bb1325ab3325ab43359b63458b73557" +
  "b93556ba3655bc3754bd3853bf3952c03a51c13a50c33b4fc43c4ec63d4dc73e4cc83f4bca404acb4149cc4248ce4347cf4446d04545" +
  "d24644d34743d44842d54a41d74b3fd84c3ed94d3dda4e3cdb503bdd513ade5238df5337e05536e15635e25734e35933e45a31e55c30" +
  "e65d2fe75e2ee8602de9612bea632aeb6429eb6628ec6726ed6925ee6a24ef6c23ef6e21f06f20f1711ff1731df2741cf3761bf37819" +
  "f47918f57b17f57d15f67e14f68013f78212f78410f8850ff8870ef8890cf98b0bf98c0af98e09fa9008fa9207fa9407fb9606fb9706" +
  "fb9906fb9b06fb9d07fc9f07fca108fca309fca50afca60cfca80dfcaa0ffcac11fcae12fcb014fcb216fcb418fbb61afbb81dfbba1f" +
  "fbbc21fbbe23fac026fac228fac42afac62df9c72ff9c932f9cb35f8cd37f8cf3af7d13df7d340f6d543f6d746f5d949f5db4cf4dd4f" +
  "f4df53f4e156f3e35af3e55df2e661f2e865f2ea69f1ec6df1ed71f1ef75f1f179f2f27df2f482f3f586f3f68af4f88ef5f992f6fa96" +
  "f8fb9af9fc9dfafda1fcffa4",
);
const SIGNED = parseColours(
  "c7eeffc2ecffbdebffb7e9ffb2e7ffade6ffa8e4ffa3e2ff9ee1ff98dfff93deff8edcff89daff84d9ff7fd7ff79d5ff74d4ff6fd2ff" +
  "6ad0ff65cfff5fcdff5acbff55caff50c8ff4bc6ff46c5ff42c3fe40c1fd3dbffb3bbdf939bbf836b9f634b7f432b5f330b3f12db1ef" +
  "2bafee29adec27abea24aae922a8e720a6e51da4e41ba2e219a0e1179edf149cdd129adc1098da0e96d80b94d70992d50990d3088ed1" +
  "088ccf088bcd0789cb0787c90785c70683c50681c30580c1057ebf057cbd047abc0478ba0476b80375b60373b40371b2026fb0026dae" +
  "026bac0169aa0168a80166a60064a40062a20060a0015f9e015d9b015b99025a9702589502569302549003538e03518c034f8a034d88" +
  "044c85044a8304488105477f05457d05437a054178064076063e74063c72063a6f07396d07376b07366808346408336109315d09305a" +
  "0a2f560a2d530b2c4f0b2a4c0c29480c27450d26420d253e0e233b0e22370f20340f1f300f1e2d101c29101b2611192311181f12171c" +
  "1215181314151513131814121b15111e161021161024170f27180e2a190d2d190d301a0c331b0b361c0a391c0a3c1d093f1e08421f07" +
  "451f074820064b21054e22045122045423035724025a25015d2501602600622800642900662b00682c006a2e006c2f006e3100703200" +
  "7234007435007637007838007a3a007c3b007e3d00803e008240008442008643008845008a46008c48008e4900904b00924c00944e00" +
  "9650009851009a53019c55019e5601a05801a25a01a45b01a65d01a85f02aa6002ac6202ae6402b06502b26702b46903b66b03b86c03" +
  "ba6e03bc7003be7103c07304c27504c47604c67804c87a04ca7c04cc7e04ce8004d08203d28403d38503d58703d78903d98b03db8d03" +
  "dd8f03df9102e19302e39502e59702e79902e99b02eb9d02ec9e02eea002f0a201f2a401f4a601f6a801f7aa04f7ad0bf8af12f8b119" +
  "f8b420f9b627f9b82ef9bb35fabd3cfabf43fac24afbc451fbc658fbc95ffccb66fccd6dfcd074fcd27afdd581fdd788fdd98ffedc96" +
  "fede9dfee0a4ffe3abffe5b2",
);

/* 256 colours written as "rrggbb…" to 768 bytes. */
function parseColours(hex) {
  return Uint8Array.from({ length: hex.length / 2 }, (_, i) => parseInt(hex.slice(2 * i, 2 * i + 2), 16));
}

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

/* The value that means nothing in particular, which the colour bar marks. */
function neutralValue(scale) {
  return isSigned(scale) ? 0 : 1;
}

/* What the colours mean, in words. */
function scaleName(scale) {
  return scale.label || (isSigned(scale) ? "probability lost" : "multiple of uniform");
}

/* [red, green, blue] of a place from 0 to 1 among the colours. */
export function colourAt(scale, at) {
  const index = 3 * Math.max(0, Math.min(255, Math.floor(256 * at)));
  return (isSigned(scale) ? SIGNED : INFERNO).subarray(index, index + 3);
}

/* How far colour covers the photograph, for 4,097 places from 0 to 1 among the colours: most at large values. */
function opacities(scale) {
  return Float32Array.from({ length: 4097 }, (_, i) => {
    const at = i / 4096;
    return 0.92 * (isSigned(scale) ? Math.abs(2 * at - 1) : at) ** 0.7;
  });
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

/* A map over its photograph, filling the canvas: the photograph dimmed and nearly grey, colour covering it the more,
   the larger the value. With strength 1 pixel for pixel what figures show (plotting/overlay.py); with 0 the photograph.
   What the model did not see is faded and hatched.

   options: rows, columns, box, scale; size = the image's own; strength = 1; smooth = true (false: patches as they
   are); greyscale = false (true: without colour, for a word that did not look anywhere in particular); outlines =
   patches [row, column] to outline; paper = 255, the lightness that what was not seen fades towards. map null: the photograph
   alone. */
export function drawOverlay(canvas, image, map, options) {
  const { rows, columns, box, scale, strength = 1, smooth = true, greyscale = false, outlines = [], paper = 255 } = options;
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
  const [low, high] = values ? scaleEnds(scale) : [0, 1];
  const colours = values && isSigned(scale) ? SIGNED : INFERNO;
  const opacity = values && opacities(scale);
  for (let y = 0; y < height; y += 1) {
    const isRowInside = down.nearest[y] >= 0;
    if (values && isRowInside) fill(values, columns, down, y, across, row);
    for (let x = 0; x < width; x += 1) {
      const i = 4 * (y * width + x);
      const isInside = isRowInside && across.nearest[x] >= 0;
      const luma = LUMA[0] * photo[i] + LUMA[1] * photo[i + 1] + LUMA[2] * photo[i + 2];
      let cover = 0;
      let index = 0;
      if (isInside && values && !Number.isNaN(row[x])) {
        const at = Math.max(0, Math.min(1, (row[x] - low) / (high - low)));
        cover = share * opacity[Math.round(4096 * at)];
        index = 3 * Math.min(255, Math.floor(256 * at));
      }
      for (let k = 0; k < 3; k += 1) {
        const here = photo[i + k];
        const dimmedValue = 12.75 + 0.47 * (0.7 * luma + 0.3 * here);
        const ground = isInside ? (1 - share) * here + share * dimmedValue : paper - 0.4 * (paper - here);
        pixels.data[i + k] = (1 - cover) * ground + cover * colours[index + k];
      }
      if (greyscale) fadePixel(pixels.data, i);
      pixels.data[i + 3] = 255;
    }
  }
  drawLines(canvas, pixels, { rows, columns, box, size, outlines });
}

/* The map alone, patches as they are, where they lie on the photograph. options as drawOverlay; size is a must. */
export function drawMap(canvas, map, options) {
  const { rows, columns, box, size, scale, outlines = [] } = options;
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
      pixels.data.set(hasValue ? colourAt(scale, (value - low) / (high - low)) : [241, 243, 245], i);
      pixels.data[i + 3] = 255;
    }
  }
  photoCache.delete(canvas);
  drawLines(canvas, pixels, { rows, columns, box, size, outlines });
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

/* Put pixels onto the canvas, then draw lines: hatching around the grid's box, outlines of patches. */
function drawLines(canvas, drawn, { rows, columns, box, size, outlines }) {
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
  for (const [row, column] of outlines) {
    const place = [left + (wide * column) / columns, top + (high * row) / rows, wide / columns, high / rows];
    context.strokeStyle = INK;
    context.lineWidth = 4 * fine;
    context.strokeRect(...place);
    context.strokeStyle = "white";
    context.lineWidth = 2 * fine;
    context.strokeRect(...place);
  }
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
  const means = `${formatNumber(neutralValue(scale))} means nothing in particular`;
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
    return `${formatProbability(word.probability)}${grey}`;
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
