/* What is shown, to take away: as a figure with its provenance, as the command line that draws it, as a link. */

import { ask, askAbout } from "./api.js";
import { h, tell } from "./dom.js";

/* Buttons under a view. views() gives what is shown, the first first: {picture | null, model, parameters, command, name};
   an empty list where there is nothing yet. */
export function takeAway(app, views) {
  const command = h("code", {});
  const line = h("pre", { class: "command", tabindex: "0", "aria-label": "The command that draws this" }, command);
  const button = (words, act, title) =>
    h("button", { type: "button", title, onclick: () => act(views()).catch((error) => app.trouble(error)) }, words);
  // A clipboard holds one picture.
  const copies = [0, 1].map((at) => button(at ? "Copy second figure" : "Copy figure", (shown) => copyFigure(shown[at]), "The PNG, to paste elsewhere"));
  const copyCommand = button("Copy command", (shown) => copyText(commands(shown), "command"), "The command line that draws this figure");
  const buttons = [
    button("Save PNG", (shown) => save(shown, "png"), "The figure that the command draws, with its provenance inside"),
    button("Save SVG", (shown) => save(shown, "svg"), "The same as lines and text"),
    copies[0],
    copyCommand,
    button("Copy link", () => copyText(location.href, "link"), "An address that shows this view again"),
  ];
  const root = h(
    "section",
    { class: "take", "aria-label": "Take it with you" },
    h("h2", { class: "eyebrow" }, "Take it with you"),
    h("div", { class: "buttons" }, buttons),
    line,
  );
  return {
    root,
    update() {
      const shown = views();
      for (const each of buttons) each.disabled = !shown.length;
      copies[0].textContent = shown.length > 1 ? "Copy first figure" : "Copy figure";
      if (shown.length > 1) copies[0].after(copies[1]);
      else copies[1].remove();
      command.textContent = commands(shown);
      copyCommand.disabled = line.hidden = !command.textContent;
    },
  };
}

/* One line for each view that a command draws. */
function commands(shown) {
  return shown.map(({ command }) => command).filter(Boolean).join("\n");
}

async function figure({ picture, model, parameters }, kind) {
  const options = { parameters: { ...parameters, kind }, whole: true };
  const response = picture
    ? await askAbout(picture, model, "/api/figure", options)
    : await ask("/api/figure", { method: "POST", parameters: { model, ...options.parameters } });
  return response.blob();
}

async function save(shown, kind) {
  tell("Drawing\u2026");
  for (const each of shown) {
    const address = URL.createObjectURL(await figure(each, kind));
    h("a", { href: address, download: `${each.name}.${kind}` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }
  tell("Saved.");
}

async function copyFigure(shown) {
  if (!navigator.clipboard?.write) throw new Error("This browser cannot copy pictures here: save the PNG instead.");
  tell("Drawing\u2026");
  await navigator.clipboard.write([new ClipboardItem({ "image/png": figure(shown, "png") })]);
  tell("The figure is in the clipboard.");
}

async function copyText(text, what) {
  if (!navigator.clipboard) throw new Error(`This browser cannot copy here. The ${what}: ${text}`);
  await navigator.clipboard.writeText(text);
  tell(`The ${what} is in the clipboard.`);
}
