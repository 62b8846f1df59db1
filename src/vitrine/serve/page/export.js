/* The export panel: what is shown as a figure with its provenance, as the command line that draws it, as a link. */

import { request, requestWithPicture } from "./api.js";
import { createElement, announce } from "./dom.js";

/* Buttons under a view. getViews() returns what is shown, in order: {picture | null, model, parameters, command, name};
   an empty list if there is nothing yet. */
export function createExportPanel(app, getViews) {
  const command = createElement("code", {});
  const line = createElement("pre", { class: "command", tabindex: "0", "aria-label": "The command that draws this" }, command);
  const button = (text, action, title) =>
    createElement("button", { type: "button", title, onclick: () => action(getViews()).catch((error) => app.showError(error)) }, text);
  // A clipboard holds one picture.
  const copies = [0, 1].map((index) => button(index ? "Copy second figure" : "Copy figure", (views) => copyFigure(views[index]), "The PNG, to paste elsewhere"));
  const copyCommand = button("Copy command", (views) => copyText(joinCommands(views), "command"), "The command line that draws this figure");
  const buttons = [
    button("Save PNG", (views) => saveFigures(views, "png"), "The figure that the command draws, with its provenance inside"),
    button("Save SVG", (views) => saveFigures(views, "svg"), "The same as lines and text"),
    copies[0],
    copyCommand,
    button("Copy link", () => copyText(location.href, "link"), "An address that shows this view again"),
  ];
  const reason = createElement("p", { class: "small grey" }, "No command draws this: the picture has no file of its own, or the view is the explorer\u2019s alone.");
  const root = createElement(
    "section",
    { class: "export", "aria-label": "Take it with you" },
    createElement("h2", { class: "eyebrow" }, "Take it with you"),
    createElement("div", { class: "buttons" }, buttons),
    line,
    reason,
  );
  return {
    root,
    update() {
      const views = getViews();
      for (const each of buttons) each.disabled = !views.length;
      copies[0].textContent = views.length > 1 ? "Copy first figure" : "Copy figure";
      if (views.length > 1) copies[0].after(copies[1]);
      else copies[1].remove();
      command.textContent = joinCommands(views);
      copyCommand.disabled = line.hidden = !command.textContent;
      reason.hidden = Boolean(command.textContent) || !views.length;
    },
  };
}

/* One line for each view that a command draws. */
function joinCommands(views) {
  return views.map(({ command }) => command).filter(Boolean).join("\n");
}

async function fetchFigure({ picture, model, parameters }, kind) {
  const options = { parameters: { ...parameters, kind }, withPhoto: true };
  const response = picture
    ? await requestWithPicture(picture, model, "/api/figure", options)
    : await request("/api/figure", { method: "POST", parameters: { model, ...options.parameters } });
  return response.blob();
}

async function saveFigures(views, kind) {
  announce("Drawing\u2026");
  for (const each of views) {
    const address = URL.createObjectURL(await fetchFigure(each, kind));
    createElement("a", { href: address, download: `${each.name}.${kind}` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }
  announce("Saved.");
}

async function copyFigure(view) {
  if (!navigator.clipboard?.write) throw new Error("This browser cannot copy pictures here: save the PNG instead.");
  announce("Drawing\u2026");
  await navigator.clipboard.write([new ClipboardItem({ "image/png": fetchFigure(view, "png") })]);
  announce("The figure is in the clipboard.");
}

async function copyText(text, what) {
  if (!navigator.clipboard) throw new Error(`This browser cannot copy here. The ${what}: ${text}`);
  await navigator.clipboard.writeText(text);
  announce(`The ${what} is in the clipboard.`);
}
