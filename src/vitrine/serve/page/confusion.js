/* The confusion matrix as a table whose cells open their pictures. */

import { createElement } from "./dom.js";

/* White to dark blue, as the matrix of vitrine evaluate; on a dark page from dark to bright. */
const LIGHT = [[255, 255, 255], [214, 230, 242], [169, 203, 227], [116, 173, 209], [63, 140, 188], [28, 106, 158], [13, 74, 121], [8, 44, 81]];
const DARK = [[23, 30, 36], [98, 184, 232]];

function interpolateColour(colours, share) {
  const at = (0.08 + 0.92 * share) * (colours.length - 1); // so that one picture differs from none
  const low = Math.min(colours.length - 2, Math.floor(at));
  return colours[low].map((value, k) => Math.round(value + (colours[low + 1][k] - value) * (at - low)));
}

/* Black or white, whichever is the easier to read on a colour (relative luminance of WCAG 2); 4.58 to 1 at least. */
function textColourOn(colour) {
  const [red, green, blue] = colour.map((value) => (value <= 10 ? value / 3294.6 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff";
}

/* The custom properties that colour a cell. */
function cellColours(share) {
  const [light, dark] = [interpolateColour(LIGHT, share), interpolateColour(DARK, share)];
  const css = (colour) => `rgb(${colour.join(" ")})`;
  return { "--light": css(light), "--light-ink": textColourOn(light), "--dark": css(dark), "--dark-ink": textColourOn(dark) };
}

/* counts is null if there are too many classes; chosen is [true label, predicted label], empty for none;
   onChoose(truth, answer). */
export function createConfusionTable(labels, counts, chosen, onChoose) {
  if (!counts) return createElement("p", {}, `A table of ${labels.length} classes would be too large. Save the figure instead.`);
  const totals = counts.map((row) => row.reduce((sum, count) => sum + count, 0));
  const head = labels.map((label) => createElement("th", { scope: "col" }, createElement("span", { title: label, dir: "auto" }, label)));
  const rows = labels.map((truth, i) =>
    createElement(
      "tr",
      {},
      createElement("th", { scope: "row", title: truth }, truth),
      labels.map((answer, j) => {
        const count = counts[i][j];
        if (!count) return createElement("td", { class: i === j ? "same" : null });
        const words = i === j ? "recognised" : `taken for ${answer}`;
        const button = createElement(
          "button",
          {
            type: "button",
            tabindex: "-1",
            "aria-pressed": String(chosen[0] === truth && chosen[1] === answer),
            "aria-label": `${count} of ${totals[i]} ${totals[i] === 1 ? "picture" : "pictures"} of ${truth} ${words}`,
            title: `${truth} ${words}: ${count} of ${totals[i]}`,
            css: cellColours(count / totals[i]),
            onclick: () => onChoose(truth, answer),
          },
          String(count),
        );
        return createElement("td", { class: i === j ? "same" : null }, button);
      }),
    ),
  );
  const table = createElement(
    "table",
    { class: labels.length > 16 ? "confusion dense" : "confusion" },
    createElement("caption", {}, "Rows: what it is. Columns: what the model says. Arrow keys move; a cell opens its pictures."),
    createElement("thead", {}, createElement("tr", {}, createElement("td", {}), head)),
    createElement("tbody", {}, rows),
  );
  const first = table.querySelector('button[aria-pressed="true"]') || table.querySelector("button");
  if (first) first.tabIndex = 0;
  table.addEventListener("keydown", (event) => moveFocus(table, event));
  return createElement("div", { class: "scroll" }, table);
}

/* Move the focus to the next cell with pictures in the direction of an arrow key. */
function moveFocus(table, event) {
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const cell = document.activeElement.closest("td");
  if (!(event.key in steps) || !cell) return;
  event.preventDefault();
  const [down, across] = steps[event.key];
  const body = table.tBodies[0];
  let [row, column] = [cell.parentElement.sectionRowIndex + down, cell.cellIndex + across];
  while (body.rows[row]?.cells[column] && column > 0) {
    const button = body.rows[row].cells[column].querySelector("button");
    if (button) {
      document.activeElement.tabIndex = -1;
      button.tabIndex = 0;
      button.focus();
      return;
    }
    [row, column] = [row + down, column + across];
  }
}
