/* Elements from a name, attributes and children. An attribute on… is an event's handler, css a set of properties (set
   by script, which a content-security policy allows), and true, false, null stand for there or not. */
export function h(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "css") for (const [property, set] of Object.entries(value)) made.style.setProperty(property, set);
    else if (key === "value") made.value = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/* A labelled select. options: [value, words] pairs; onchange(value). */
export function choice(label, options, value, onchange, attributes = {}) {
  const select = h(
    "select",
    { onchange: () => onchange(select.value), ...attributes },
    options.map(([each, words]) => h("option", { value: each }, words)),
  );
  select.value = value;
  return h("label", { class: "field" }, h("span", {}, label), select);
}

/* Radio buttons in one row, of which one is chosen. */
export function segments(label, options, value, onchange) {
  const name = `segments-${(segments.count = (segments.count || 0) + 1)}`;
  return h(
    "fieldset",
    { class: "segments" },
    h("legend", {}, label),
    h(
      "div",
      {},
      options.map(([each, words]) => {
        const radio = h("input", { type: "radio", name, value: each, onchange: () => onchange(each) });
        radio.checked = each === value;
        return h("label", {}, radio, h("span", {}, words));
      }),
    ),
  );
}

/* Says something that is over in a moment, and to screen readers. */
export function tell(words) {
  const told = document.getElementById("told");
  told.textContent = words;
  told.classList.add("shown");
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => told.classList.remove("shown"), 3000);
}

/* Runs a function once things have been quiet for some milliseconds. */
export function quietly(milliseconds, run) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...values), milliseconds);
  };
}
