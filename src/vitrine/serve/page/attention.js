/* A layer's whole attention matrix, requested once, from which the map of every patch is read. */

import { decodeArray } from "./viewer.js";

const NICE = [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10];

export class AttentionMatrix {
  /* answer: of /api/matrix. Rows are queries, columns are keys, prefix tokens first. */
  constructor(answer) {
    this.tokens = answer.tokens;
    this.prefix = answer.prefix;
    this.grid = answer.grid;
    this.values = decodeArray(answer.matrix);
    this.scales = {};
    const count = this.grid[0] * this.grid[1];
    this.means = Float32Array.from({ length: count }, (_, query) => {
      const start = (this.prefix + query) * this.tokens + this.prefix;
      return this.values.subarray(start, start + count).reduce((sum, value) => sum + value, 0) / count;
    });
  }

  /* What a patch attends to (direction "from"): its row over the patches, as multiples of uniform. What attends to it
     ("to"): the number at this patch in every other patch's own map, so that both directions agree on a pair. */
  map([row, column], direction) {
    const count = this.grid[0] * this.grid[1];
    const token = row * this.grid[1] + column;
    const values = new Float32Array(count);
    for (let i = 0; i < count; i += 1) {
      const [query, key] = direction === "from" ? [token, i] : [i, token];
      const mean = this.means[query];
      values[i] = mean > 0 ? this.values[(this.prefix + query) * this.tokens + this.prefix + key] / mean : 0;
    }
    return values;
  }

  /* One scale for all patches of a direction, so that colours mean the same wherever the pointer is. */
  scale(direction) {
    this.scales[direction] ??= { kind: "uniform", high: this.high(direction), label: "multiple of uniform" };
    return this.scales[direction];
  }

  high(direction) {
    const [rows, columns] = this.grid;
    const step = Math.max(1, Math.round((rows * columns) / 100)); // a hundred patches are enough for a percentile
    const maps = [];
    for (let i = 0; i < rows * columns; i += step) maps.push(this.map([Math.floor(i / columns), i % columns], direction));
    return sharedHigh(maps);
  }
}

/* Where one scale for several maps ends: their 98 % quantile (QUANTILE of plotting/colormap.py), rounded up to a number to read; 2 at least. */
export function sharedHigh(maps) {
  const sizes = maps.map((map) => map.length);
  const all = new Float32Array(sizes.reduce((sum, size) => sum + size, 0));
  let end = 0;
  for (const map of maps) {
    all.set(map, end);
    end += map.length;
  }
  const finite = all.filter((value) => Number.isFinite(value)).sort();
  const place = 0.98 * (finite.length - 1);
  const [below, above] = [finite[Math.floor(place)], finite[Math.ceil(place)]];
  const target = Math.max(2, finite.length ? below + (place - Math.floor(place)) * (above - below) : 0);
  const power = 10 ** Math.floor(Math.log10(target));
  return power * NICE.find((nice) => nice >= (target / power) * (1 - 1e-6));
}
