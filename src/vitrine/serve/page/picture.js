/* Pictures: the server's samples, and files that a person opened, which stay in this tab. */

import { request, ApiError } from "./api.js";

export const MAX_BYTES = 20e6; // of a file that the server accepts
const MAX_STORED_BYTES = 3.5e6; // of an opened file that survives a reload of the tab
const MAX_SIDE = 2400; // pixels a side of a photograph in memory
const MAX_DECODED = 16; // pictures that stay decoded in memory
const recentlyDrawn = new Set();

/* The address of a sample, small (kind "thumbnail") or whole ("picture"); with a version browsers cache it for good. */
export function pictureUrl(kind, model, { id, version }, parameters = {}) {
  const query = new URLSearchParams(version ? { ...parameters, v: version } : parameters).toString();
  return `/api/${kind}/${encodeURIComponent(model)}/${encodeURIComponent(id)}${query ? `?${query}` : ""}`;
}

export class Picture {
  /* key is the picture's name in the page's address: "MODEL/ID" of a sample, "sha256:…" of an opened file. */
  constructor({ key, name, label = null, sample = null, version = null, blob = null, sha256 = null }) {
    Object.assign(this, { key, name, label, sample, version, blob, sha256 });
    this.serverHashes = new Map(); // the sha256 under which the server has an encoding in its cache; by model, and what else it depends on
    this.imagePromise = null;
  }

  static fromSample(model, { id, name, label = null, version = null }) {
    return new Picture({ key: `${model}/${id}`, name, label, version, sample: { model, id } });
  }

  static async fromFile(blob, name) {
    if (blob.size === 0) throw new ApiError(`${name} is empty.`);
    if (blob.size > MAX_BYTES) throw new ApiError(`${name} has ${Math.round(blob.size / 1e6)} MB; a picture may have ${MAX_BYTES / 1e6} MB.`);
    const sha256 = await sha256Hex(blob);
    const picture = new Picture({ key: sha256 ? `sha256:${sha256}` : `given:${Date.now()}-${name}`, name, blob, sha256 });
    picture.store();
    return picture;
  }

  /* Parameters by which a request names this picture without its bytes; null if it cannot. */
  referenceFor(model, keptAs = model) {
    if (this.sample) return { sample: this.sample.model === model ? this.sample.id : this.key };
    return this.serverHashes.has(keptAs) ? { picture: this.serverHashes.get(keptAs) } : null;
  }

  /* The file's name without its folders. */
  get title() {
    return this.name.split("/").at(-1);
  }

  /* That name without its ending, for the files of its figures. */
  get stem() {
    return this.title.replace(/\.[^.]*$/, "").replaceAll(/[^\w-]+/g, "-");
  }

  get url() {
    const { model, id } = this.sample;
    return pictureUrl("picture", model, { id, version: this.version });
  }

  thumbnail(size = 144) {
    const { model, id } = this.sample;
    return pictureUrl("thumbnail", model, { id, version: this.version }, { size });
  }

  async bytes() {
    if (!this.blob) this.blob = await (await request(this.url)).blob();
    return this.blob;
  }

  /* The upright picture as an ImageBitmap; a grey canvas if this browser cannot read the format. */
  image() {
    this.imagePromise ??= this.decode();
    recentlyDrawn.delete(this);
    recentlyDrawn.add(this); // the newest come last
    for (const picture of recentlyDrawn) {
      if (recentlyDrawn.size <= MAX_DECODED) break;
      recentlyDrawn.delete(picture);
      picture.imagePromise = null;
      if (picture.sample) picture.blob = null;
    }
    return this.imagePromise;
  }

  async decode() {
    const blob = await this.bytes();
    try {
      const whole = await createImageBitmap(blob, { imageOrientation: "from-image" });
      const zoom = MAX_SIDE / Math.max(whole.width, whole.height);
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
      this.isPlaceholder = true;
      return sheet;
    }
  }

  /* Put the file into the tab's session storage, so that a reload shows the same view; it ends with the tab. */
  store() {
    if (!this.sha256 || this.blob.size > MAX_STORED_BYTES) return;
    const reader = new FileReader();
    reader.onload = () => {
      try {
        sessionStorage.setItem("picture", JSON.stringify({ sha256: this.sha256, name: this.name, data: reader.result }));
      } catch {
        // full or forbidden: a reload will ask for the picture again
      }
    };
    reader.readAsDataURL(this.blob);
  }

  /* The file that was stored last, if it has this key; else null. */
  static async restore(key) {
    try {
      const { sha256, name, data } = JSON.parse(sessionStorage.getItem("picture"));
      if (key !== `sha256:${sha256}`) return null;
      const [head, body] = data.split(",");
      const bytes = Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0));
      const blob = new Blob([bytes], { type: head.slice(5).split(";")[0] });
      return new Picture({ key, name, blob, sha256 });
    } catch {
      return null;
    }
  }
}

async function sha256Hex(blob) {
  if (!crypto.subtle) return null; // a page that came over plain http from another machine
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", await blob.arrayBuffer()));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
