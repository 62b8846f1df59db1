/* The verdict on a map: a badge, a sentence, and one click away the controls that it was compared with. */

import { isAbort, jsonAbout } from "./api.js";
import { h, quietly } from "./dom.js";
import { decodeArray, number, Stage } from "./viewer.js";

const EVIDENCE = {
  correlation: ["rank correlation with the map of randomised weights", "below 0.5: the map depends on the weights"],
  advantage: ["better than a blob in the centre by", "insertion less deletion; above 0.05 counts"],
  strongest_tenth: ["share of the strongest tenth of patches", "0.10 is uniform; below 0.15 is spread evenly"],
  carried: ["share of the mass on outlier tokens", "from 0.25 on they carry the map"],
};

export function verdictPanel(app) {
  const badge = h("span", { class: "badge" }, "not checked");
  const sentence = h("p", {});
  const numbers = h("dl", { class: "evidence" });
  const controls = h("div", { class: "controls" });
  const more = h(
    "details",
    { ontoggle: () => app.state.tab === "classify" && app.set({ controls: more.open ? "1" : "" }) },
    h("summary", {}, "Controls and numbers"),
    h("p", { class: "small grey" }, "Maps that know nothing of this model, or of this picture, on the same scale:"),
    controls,
    numbers,
  );
  const root = h(
    "section",
    { class: "verdict", "aria-label": "Verdict" },
    h("h2", { class: "eyebrow" }, "Can this map be believed?"),
    h("div", { "aria-live": "polite" }, badge, sentence),
    more,
  );
  let question = "";
  let answer = null;
  let stop = null;
  const stages = [];

  const ask = quietly(500, async (pane, wanted) => {
    stop?.abort();
    stop = new AbortController();
    const { query: _query, direction: _direction, ...parameters } = pane.parameters;
    try {
      const found = await jsonAbout(pane.picture, pane.model.id, "/api/verdict", { parameters, signal: stop.signal });
      if (wanted === question) show((answer = found), pane);
    } catch (error) {
      if (isAbort(error) || wanted !== question) return;
      say("not checked", `It could not be checked: ${error.message}`);
    }
  });

  function say(flag, words) {
    badge.textContent = flag;
    badge.dataset.flag = flag;
    sentence.textContent = words;
    more.hidden = true;
  }

  function show(found, pane) {
    say(found.flag, found.sentence);
    more.hidden = false;
    more.open = app.state.controls === "1";
    const known = Object.entries(EVIDENCE).filter(([key]) => typeof evidenceOf(found)[key] === "number");
    numbers.replaceChildren(
      ...known.flatMap(([key, [name, means]]) => [
        h("dt", {}, name),
        h("dd", {}, h("strong", { class: "number" }, number(evidenceOf(found)[key])), h("span", { class: "grey" }, ` ${means}`)),
      ]),
    );
    stages.length = 0;
    controls.replaceChildren(
      ...found.controls.map(({ name, map }) => {
        const place = h("figure", {}, h("figcaption", {}, name));
        stages.push([new Stage(place, { maximum: 320 }), decodeArray(map), name]);
        return place;
      }),
    );
    draw(pane, pane.result.scale);
  }

  function draw(pane, scale) {
    const { size, grid, box } = pane.result;
    for (const [stage, map, name] of stages) {
      const own = scale.kind === "lost" ? { kind: "own", low: 0, high: Math.max(1e-6, ...map), label: "score" } : scale;
      stage.show({ image: pane.image, size, grid, box, map, scale: own, described: `Control: ${name}` });
    }
  }

  return {
    root,
    /* For the map of a pane; asks the server once it has stayed for half a second. */
    update(pane, scale) {
      const { query } = pane.parameters;
      const wanted = JSON.stringify([pane.question]);
      if (query) {
        question = "";
        stop?.abort();
        say("not checked", "Only maps of what the model reads out are checked, not those of single patches.");
      } else if (wanted !== question) {
        question = wanted;
        answer = null;
        say("not checked", "Checking\u2026");
        badge.textContent = "checking";
        ask(pane, wanted);
      } else if (answer) {
        draw(pane, scale);
        more.open = app.state.controls === "1";
      }
    },
  };
}

function evidenceOf(found) {
  return found.checks?.evidence || (Array.isArray(found.checks) ? {} : found.checks) || {};
}
