/* The tray of pictures to choose from: a person's own, then the model's samples. */

import { createElement } from "./dom.js";

export function createTray(app) {
  const input = createElement("input", {
    type: "file",
    accept: "image/*",
    multiple: true,
    class: "visually-hidden",
    tabindex: "-1",
    "aria-hidden": "true",
    onchange: () => {
      app.addPictures([...input.files]);
      input.value = "";
    },
  });
  const pickButton = createElement(
    "button",
    { type: "button", class: "pick", onclick: () => input.click() },
    createElement("strong", {}, "Choose a picture"),
    createElement("span", {}, "or drop or paste one anywhere"),
  );
  const list = createElement("div", { class: "thumbs", role: "group", "aria-label": "Pictures" });
  const root = createElement("aside", { class: "tray", "aria-label": "Pictures to look at" }, pickButton, input, list);
  let currentKeys = "";

  async function update(model, chosen) {
    const samples = await Promise.all(app.sampleKeys(model).map((key) => app.findPicture(key)));
    const current = chosen && ![...app.ownPictures, ...samples].includes(chosen) ? [chosen] : [];
    const pictures = [...app.ownPictures, ...current, ...samples];
    const keys = pictures.map((picture) => picture.key).join(" ");
    if (keys !== currentKeys) {
      currentKeys = keys;
      list.replaceChildren(...pictures.map((picture) => createThumbnail(app, picture)));
    }
    for (const button of list.children) {
      const isChosen = button.dataset.key === chosen?.key;
      button.setAttribute("aria-pressed", String(isChosen));
      if (isChosen) scrollToButton(list, button);
    }
  }
  return { root, update };
}

/* Scroll a button into sight, where the tray is a strip. */
function scrollToButton(list, button) {
  const [outer, inner] = [list.getBoundingClientRect(), button.getBoundingClientRect()];
  if (inner.left < outer.left) list.scrollLeft -= outer.left - inner.left + 8;
  else if (inner.right > outer.right) list.scrollLeft += inner.right - outer.right + 8;
}

function createThumbnail(app, picture) {
  const label = picture.label === null ? picture.name : `${picture.name}, ${picture.label}`;
  const button = createElement("button", {
    type: "button",
    class: "thumb",
    "data-key": picture.key,
    "aria-label": label,
    title: label,
    onclick: () => app.set({ picture: picture.key }, true),
  });
  if (picture.sample) {
    button.append(createElement("img", { src: picture.thumbnail(), alt: "", width: 72, height: 72, decoding: "async" }));
  } else {
    const canvas = createElement("canvas", { width: 144, height: 144 });
    button.append(canvas);
    picture.image().then((image) => drawCover(canvas, image));
  }
  return button;
}

/* Draw the middle of a picture so that it covers the canvas. */
function drawCover(canvas, image) {
  const side = Math.min(image.width, image.height);
  const place = [(image.width - side) / 2, (image.height - side) / 2, side, side];
  canvas.getContext("2d").drawImage(image, ...place, 0, 0, canvas.width, canvas.height);
}
