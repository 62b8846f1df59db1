/* The pictures to choose from: a person's own, then the samples of the model. */

import { h } from "./dom.js";

export function tray(app) {
  const input = h("input", {
    type: "file",
    accept: "image/*",
    multiple: true,
    class: "visually-hidden",
    tabindex: "-1",
    "aria-hidden": "true",
    onchange: () => {
      app.take([...input.files]);
      input.value = "";
    },
  });
  const pick = h(
    "button",
    { type: "button", class: "pick", onclick: () => input.click() },
    h("strong", {}, "Choose a picture"),
    h("span", {}, "or drop or paste one anywhere"),
  );
  const list = h("div", { class: "thumbs", role: "group", "aria-label": "Pictures" });
  const root = h("aside", { class: "tray", "aria-label": "Pictures to look at" }, pick, input, list);
  let drawn = "";

  async function update(model, chosen) {
    const samples = await Promise.all(app.offered(model).map((key) => app.picture(key)));
    const current = chosen && ![...app.given, ...samples].includes(chosen) ? [chosen] : [];
    const pictures = [...app.given, ...current, ...samples];
    const wanted = pictures.map((picture) => picture.key).join(" ");
    if (wanted !== drawn) {
      drawn = wanted;
      list.replaceChildren(...pictures.map((picture) => thumb(app, picture)));
    }
    for (const button of list.children) {
      const pressed = button.dataset.key === chosen?.key;
      button.setAttribute("aria-pressed", String(pressed));
      if (pressed) reveal(list, button);
    }
  }
  return { root, update };
}

/* Into sight, where the pictures are a strip that scrolls. */
function reveal(list, button) {
  const [outer, inner] = [list.getBoundingClientRect(), button.getBoundingClientRect()];
  if (inner.left < outer.left) list.scrollLeft -= outer.left - inner.left + 8;
  else if (inner.right > outer.right) list.scrollLeft += inner.right - outer.right + 8;
}

function thumb(app, picture) {
  const said = picture.label === null ? picture.name : `${picture.name}, ${picture.label}`;
  const button = h("button", {
    type: "button",
    class: "thumb",
    "data-key": picture.key,
    "aria-label": said,
    title: said,
    onclick: () => app.set({ picture: picture.key }, true),
  });
  if (picture.sample) {
    button.append(h("img", { src: picture.thumbnail(), alt: "", width: 72, height: 72, decoding: "async" }));
  } else {
    const canvas = h("canvas", { width: 144, height: 144 });
    button.append(canvas);
    picture.image().then((image) => cover(canvas, image));
  }
  return button;
}

/* The middle of a picture, as large as the canvas. */
function cover(canvas, image) {
  const side = Math.min(image.width, image.height);
  const place = [(image.width - side) / 2, (image.height - side) / 2, side, side];
  canvas.getContext("2d").drawImage(image, ...place, 0, 0, canvas.width, canvas.height);
}
