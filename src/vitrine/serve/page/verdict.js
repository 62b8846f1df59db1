/* The verdict on a map: a badge, a sentence, and one click away the controls that it was compared with. */

import { isAbort, jsonAbout } from "./api.js";
import { h, quietly } from "./dom.js";
import { decodeArray, number, Stage } from "./viewer.js";

const QUESTIONS = {
  sensitive_to_weights: "Does it change when the weights are randomised?",
  better_than_centre: "Is it better than a blob in the centre?",
  spread_evenly: "Is it spread evenly?",
  carried_by_outliers: "Do outlier tokens carry it?",
};

const LONGEST = 600; // seconds: the model is run about a hundred times

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
  const heading = h("h2", { class: "eyebrow" });
  const root = h(
    "section",
    { class: "verdict" },
    heading,
    h("div", { "aria-live": "polite" }, badge, sentence),
    more,
  );
  let question = "";
  let answer = null;
  let stop = null;
  const stages = [];

  const ask = quietly(500, async (pane, wanted) => {
    if (wanted !== question) return; // a patch was kept meanwhile
    stop?.abort();
    stop = new AbortController();
    const { query: _query, direction: _direction, ...parameters } = pane.parameters;
    try {
      const found = await jsonAbout(pane.picture, pane.model.id, "/api/verdict", { parameters, signal: stop.signal, longest: LONGEST });
      if (wanted === question) {
        answer = found;
        show(found, pane);
        if (found.outliers?.length) app.set({}); // they are outlined
      }
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
    numbers.replaceChildren(...found.checks.flatMap(answered));
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

  /* which: "first" or "second" of two maps, "" of the only one. */
  function name(which) {
    heading.textContent = `Can ${which ? `the ${which}` : "this"} map be believed?`;
    root.setAttribute("aria-label", which ? `Verdict on the ${which} map` : "Verdict");
  }

  name("");
  return {
    root,
    name,
    /* Patches that hold outlier tokens, of the map that the verdict is on; none until it is there. */
    outliers: (pane) => (answer && pane.question && question === JSON.stringify([pane.question]) ? answer.outliers || [] : []),
    /* Where there is no map. */
    clear() {
      question = "";
      stop?.abort();
      say("not checked", "");
    },
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

/* One question of the verdict with its answer and the number behind it. */
function answered({ name, answer, good, value, label }) {
  const words = answer === null ? "not checked" : answer ? "yes" : "no";
  const behind = value === null || value === undefined ? "" : ` \u00b7 ${label} ${number(value)}`;
  const kind = good === null || good === undefined ? null : good ? "good" : "bad";
  return [h("dt", {}, QUESTIONS[name] || name), h("dd", {}, h("strong", { class: kind }, words), behind)];
}
