/* What the tabs that look at one picture have in common: which one it is, and what stands there where it is none. */

import { h } from "./dom.js";
import { tray } from "./tray.js";

export class PicturePage {
  constructor(app) {
    this.app = app;
    this.tray = tray(app);
    this.title = h("h1", { class: "title" });
    this.blank = h("div", { class: "blank" });
  }

  say(title, words) {
    this.root.classList.add("empty");
    this.blank.replaceChildren(h("h1", {}, title), h("p", {}, words));
  }

  /* The picture of a view, or the first that is offered with its model. Null where there is none, in whose place title
     and words then stand, and where the view is another by now. */
  async pictureOf(state, model, title, words) {
    const offered = this.app.given[0]?.key || this.app.offered(model)[0];
    if (!state.picture && offered) {
      this.app.set({ picture: offered });
      return null;
    }
    const picture = state.picture ? await this.app.picture(state.picture) : null;
    if (this.app.state !== state) return null;
    this.tray.update(model, picture);
    if (!picture) {
      const lost = state.picture && "This view is of a picture that only the person who dropped it has. Drop it here, and the view comes back.";
      this.say(lost ? "Which picture?" : title, lost || words);
      return null;
    }
    this.root.classList.remove("empty");
    this.title.title = picture.name;
    return picture;
  }
}
