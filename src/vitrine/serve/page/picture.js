/* Pictures: samples that the server has, and those that a person gave, which stay in this tab. */

import { ask, ApiError } from "./api.js";

export const LARGEST = 20e6; // bytes that the server takes
const KEPT = 3.5e6; // bytes of a given picture that survive a reload of the tab
const WIDEST = 2400; // pixels that a photograph is drawn from at most
const DECODED = 16; // pictures that stay decoded in memory
const recent = new Set();

/* Where a model's own picture is, small ("thumbnail") or whole ("picture"); with its version it is cached for good. */
export function addressOf(what, model, { id, version }, parameters = {}) {
  const query = new URLSearchParams(version ? { ...parameters, v: version } : parameters).toString();
  return `/api/${what}/${encodeURIComponent(model)}/${encodeURIComponent(id)}${query ? `?${query}` : ""}`;
}

export class Picture {
  /* key is the picture's name in the page's address: "MODEL/ID" of a sample, "sha256:…" of a given one. */
  constructor({ key, name, label = null, sample = null, version = null, blob = null, sha = null }) {
    Object.assign(this, { key, name, label, sample, version, blob, sha });
    this.held = new Map(); // by model: the sha256 under which the server holds the encoding
    this.drawn = null;
  }

  static of(model, { id, name, label = null, version = null }) {
    return new Picture({ key: `${model}/${id}`, name, label, version, sample: { model, id } });
  }

  static async given(blob, name) {
    if (blob.size === 0) throw new ApiError(`${name} is empty.`);
    if (blob.size > LARGEST) throw new ApiError(`${name} has ${Math.round(blob.size / 1e6)} MB; a picture may have ${LARGEST / 1e6} MB.`);
    const sha = await digest(blob);
    const picture = new Picture({ key: sha ? `sha256:${sha}` : `given:${Date.now()}-${name}`, name, blob, sha });
    picture.keep();
    return picture;
  }

  /* How a request names this picture without its bytes, or null. */
  knownAs(model) {
    if (this.sample) return { sample: this.sample.model === model ? this.sample.id : this.key };
    return this.held.has(model) ? { picture: this.held.get(model) } : null;
  }

  /* The file's name without its folders. */
  get title() {
    return this.name.split("/").at(-1);
  }

  /* That name without its ending, for the files of its figures. */
  get stem() {
    return this.title.replace(/\.[^.]*$/, "").replaceAll(/[^\w-]+/g, "-");
  }

  get address() {
    const { model, id } = this.sample;
    return addressOf("picture", model, { id, version: this.version });
  }

  thumbnail(size = 144) {
    const { model, id } = this.sample;
    return addressOf("thumbnail", model, { id, version: this.version }, { size });
  }

  async bytes() {
    if (!this.blob) this.blob = await (await ask(this.address)).blob();
    return this.blob;
  }

  /* Something to draw from: an ImageBitmap, upright; a grey sheet where this browser cannot read the format. */
  image() {
    this.drawn ??= this.decode();
    recent.delete(this);
    recent.add(this); // the newest go last
    for (const picture of recent) {
      if (recent.size <= DECODED) break;
      recent.delete(picture);
      picture.drawn = null;
      if (picture.sample) picture.blob = null;
    }
    return this.drawn;
  }

  async decode() {
    const blob = await this.bytes();
    try {
      const whole = await createImageBitmap(blob, { imageOrientation: "from-image" });
      const zoom = WIDEST / Math.max(whole.width, whole.height);
      if (zoom >= 1) return whole;
      const size = { resizeWidth: Math.round(whole.width * zoom), resizeHeight: Math.round(whole.height * zoom) };
      const smaller = await createImageBitmap(whole, { ...size, resizeQuality: "high" });
      whole.close();
      return smaller;
    } catch {
      const sheet = document.createElement("canvas");
      [sheet.width, sheet.height] = [300, 300];
      const context = sheet.getContext("2d");
      context.fillStyle = "#9aa3ab";
      context.fillRect(0, 0, 300, 300);
      this.unshown = true;
      return sheet;
    }
  }

  /* Into the tab's own storage, so that a reload shows the same view; nothing of it outlives the tab. */
  keep() {
    if (!this.sha || this.blob.size > KEPT) return;
    const reader = new FileReader();
    reader.onload = () => {
      try {
        sessionStorage.setItem("picture", JSON.stringify({ sha: this.sha, name: this.name, data: reader.result }));
      } catch {
        // full or forbidden: a reload will ask for the picture again
      }
    };
    reader.readAsDataURL(this.blob);
  }

  static async kept(key) {
    try {
      const { sha, name, data } = JSON.parse(sessionStorage.getItem("picture"));
      if (key !== `sha256:${sha}`) return null;
      const [head, body] = data.split(",");
      const bytes = Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0));
      const blob = new Blob([bytes], { type: head.slice(5).split(";")[0] });
      return new Picture({ key, name, blob, sha });
    } catch {
      return null;
    }
  }
}

async function digest(blob) {
  if (!crypto.subtle) return null; // a page that came over plain http from another machine
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", await blob.arrayBuffer()));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
