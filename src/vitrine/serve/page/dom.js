/* A DOM element from a name, attributes and children. An attribute on… is an event's handler, css an object of style
   properties (set by script, which a content-security policy allows); true, false and null set or leave out others. */
export function createElement(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "css") for (const [property, text] of Object.entries(value)) element.style.setProperty(property, text);
    else if (key === "value") element.value = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/* A labelled select. options: [value, text] pairs; onchange(value). */
export function createSelect(label, options, value, onchange, attributes = {}) {
  const select = createElement(
    "select",
    { onchange: () => onchange(select.value), ...attributes },
    options.map(([option, text]) => createElement("option", { value: option }, text)),
  );
  select.value = value;
  return createElement("label", { class: "field" }, createElement("span", {}, label), select);
}

/* Labelled radio buttons in one row; parameters as those of createSelect. */
export function createRadioGroup(label, options, value, onchange) {
  const name = `segments-${(createRadioGroup.count = (createRadioGroup.count || 0) + 1)}`;
  return createElement(
    "fieldset",
    { class: "segments" },
    createElement("legend", {}, label),
    createElement(
      "div",
      {},
      options.map(([option, text]) => {
        const radio = createElement("input", { type: "radio", name, value: option, onchange: () => onchange(option) });
        radio.checked = option === value;
        return createElement("label", {}, radio, createElement("span", {}, text));
      }),
    ),
  );
}

/* Shows a message for three seconds, and tells it to screen readers. */
export function announce(message) {
  const output = document.getElementById("announcement");
  output.textContent = message;
  output.classList.add("shown");
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => output.classList.remove("shown"), 3000);
}

/* A function that calls back only once it has not been called again for some milliseconds. */
export function debounce(milliseconds, callback) {
  let timer = 0;
  return (...parameters) => {
    clearTimeout(timer);
    timer = setTimeout(() => callback(...parameters), milliseconds);
  };
}
