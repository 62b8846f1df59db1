/* The base of the tabs that show one picture: which picture it is, and a message in place of a missing one. */

import { createElement } from "./dom.js";
import { createTray } from "./tray.js";

export class PicturePage {
  constructor(app) {
    this.app = app;
    this.tray = createTray(app);
    this.title = createElement("h1", { class: "title" });
    this.message = createElement("div", { class: "blank" });
  }

  showMessage(title, text) {
    this.root.classList.add("empty");
    this.message.replaceChildren(createElement("h1", {}, title), createElement("p", {}, text));
  }

  /* The picture of a view, or the first that the tray offers. Null if there is none, in whose place title and text are
     shown, and if the view has changed meanwhile. */
  async choosePicture(state, model, title, text) {
    const firstKey = this.app.ownPictures[0]?.key || this.app.sampleKeys(model)[0];
    if (!state.picture && firstKey) {
      this.app.set({ picture: firstKey });
      return null;
    }
    const picture = state.picture ? await this.app.findPicture(state.picture) : null;
    if (this.app.state !== state) return null;
    this.tray.update(model, picture);
    if (!picture) {
      const lostMessage = state.picture && "This view is of a picture that only the person who dropped it has. Drop it here, and the view comes back.";
      this.showMessage(lostMessage ? "Which picture?" : title, lostMessage || text);
      return null;
    }
    this.root.classList.remove("empty");
    this.title.title = picture.name;
    return picture;
  }
}
