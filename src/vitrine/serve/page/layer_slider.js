/* The slider for a layer, from 0 to the last. */

import { createElement } from "./dom.js";

/* layers: how many there are. layer: the state's, "-1" for the last; onchange(layer) is called in the same form while the
   slider moves. */
export function createLayerSlider(layers, layer, onchange, attributes = {}) {
  const last = layers - 1;
  const position = layer === "-1" ? last : Number(layer);
  const describeLayer = (value) => (value === last ? `${value} (the last)` : `${value} of 0 to ${last}`);
  const output = createElement("output", {}, describeLayer(position));
  const slider = createElement("input", { type: "range", min: 0, max: last, step: 1, "data-what": "layer", ...attributes });
  slider.value = String(position);
  slider.setAttribute("aria-valuetext", describeLayer(position));
  slider.addEventListener("input", () => {
    const value = Number(slider.value);
    output.textContent = describeLayer(value);
    slider.setAttribute("aria-valuetext", describeLayer(value));
    onchange(value === last ? "-1" : String(value));
  });
  return createElement("label", { class: "field layer" }, createElement("span", {}, "Layer ", output), slider);
}
