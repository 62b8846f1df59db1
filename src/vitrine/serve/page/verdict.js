/* The panel with the verdict on a map: a badge, a sentence, and under "details" the controls and numbers behind it. */

import { isAbortError, requestJson } from "./api.js";
import { createElement, debounce } from "./dom.js";
import { decodeArray, formatNumber, Stage } from "./viewer.js";

const QUESTIONS = {
  sensitive_to_weights: "Does it change when the weights are randomised?",
  better_than_centre: "Is it better than a blob in the centre?",
  spread_evenly: "Is it spread evenly?",
  carried_by_outliers: "Do outlier tokens carry it?",
};

const TIMEOUT = 600; // seconds: the model is run about a hundred times

export function createVerdictPanel(app) {
  const badge = createElement("span", { class: "badge" }, "not checked");
  const sentence = createElement("p", {});
  const numbers = createElement("dl", { class: "evidence" });
  const controls = createElement("div", { class: "controls" });
  const details = createElement(
    "details",
    { ontoggle: () => app.state.tab === "classify" && app.set({ controls: details.open ? "1" : "" }) },
    createElement("summary", {}, "Controls and numbers"),
    createElement("p", { class: "small grey" }, "Maps that know nothing of this model, or of this picture, on the same scale:"),
    controls,
    numbers,
  );
  const heading = createElement("h2", { class: "eyebrow" });
  const root = createElement(
    "section",
    { class: "verdict" },
    heading,
    createElement("div", { "aria-live": "polite" }, badge, sentence),
    details,
  );
  let question = "";
  let answer = null;
  let abortController = null;
  const stages = [];

  const requestVerdict = debounce(500, async (pane, nextQuestion) => {
    if (nextQuestion !== question) return; // a patch was clicked meanwhile
    abortController?.abort();
    abortController = new AbortController();
    const { query: _query, direction: _direction, ...parameters } = pane.parameters;
    try {
      const result = await requestJson(pane.picture, pane.model.id, "/api/verdict", { parameters, signal: abortController.signal, timeout: TIMEOUT });
      if (nextQuestion === question) {
        answer = result;
        show(result, pane);
        if (result.outliers?.length) app.set({}); // draws again, with outlines
      }
    } catch (error) {
      if (isAbortError(error) || nextQuestion !== question) return;
      setVerdict("not checked", `It could not be checked: ${error.message}`);
    }
  });

  function setVerdict(flag, text) {
    badge.textContent = flag;
    badge.dataset.flag = flag;
    sentence.textContent = text;
    details.hidden = true;
  }

  function show(result, pane) {
    setVerdict(result.flag, result.sentence);
    details.hidden = false;
    details.open = app.state.controls === "1";
    numbers.replaceChildren(...result.checks.flatMap(renderCheck));
    stages.length = 0;
    controls.replaceChildren(
      ...result.controls.map(({ name, map }) => {
        const place = createElement("figure", {}, createElement("figcaption", {}, name));
        stages.push([new Stage(place, { maximum: 320 }), decodeArray(map), name]);
        return place;
      }),
    );
    draw(pane, pane.result.scale);
  }

  function draw(pane, scale) {
    const { size, grid, box } = pane.result;
    for (const [stage, map, name] of stages) {
      const controlScale = scale.kind === "lost" ? { kind: "own", low: 0, high: Math.max(1e-6, ...map), label: "score" } : scale;
      stage.show({ image: pane.image, size, grid, box, map, scale: controlScale, described: `Control: ${name}` });
    }
  }

  /* which: "first" or "second" of two maps, "" for the only one. */
  function setHeading(which) {
    heading.textContent = `Can ${which ? `the ${which}` : "this"} map be believed?`;
    root.setAttribute("aria-label", which ? `Verdict on the ${which} map` : "Verdict");
  }

  setHeading("");
  return {
    root,
    setHeading,
    /* Patches with outlier tokens of a pane's map; none until its verdict has come. */
    outliers: (pane) => (answer && pane.question && question === JSON.stringify([pane.question]) ? answer.outliers || [] : []),
    /* Show no verdict: there is no map. */
    clear() {
      question = "";
      abortController?.abort();
      setVerdict("not checked", "");
    },
    /* Show the verdict on a pane's map; requests it once the map has stayed for half a second. */
    update(pane, scale) {
      const { query } = pane.parameters;
      const nextQuestion = JSON.stringify([pane.question]);
      if (query) {
        question = "";
        abortController?.abort();
        setVerdict("not checked", "Only maps of what the model reads out are checked, not those of single patches.");
      } else if (nextQuestion !== question) {
        question = nextQuestion;
        answer = null;
        setVerdict("not checked", "Checking\u2026");
        badge.textContent = "checking";
        requestVerdict(pane, nextQuestion);
      } else if (answer) {
        draw(pane, scale);
        details.open = app.state.controls === "1";
      }
    },
  };
}

/* The elements of one check: its question, its answer and the number behind it. */
function renderCheck({ name, answer, good, value, label }) {
  const words = answer === null ? "not checked" : answer ? "yes" : "no";
  const evidence = value === null || value === undefined ? "" : ` \u00b7 ${label} ${formatNumber(value)}`;
  const kind = good === null || good === undefined ? null : good ? "good" : "bad";
  return [createElement("dt", {}, QUESTIONS[name] || name), createElement("dd", {}, createElement("strong", { class: kind }, words), evidence)];
}
