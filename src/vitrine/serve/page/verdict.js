/* The panel that says whether the answer depends on the patches that a map marks: a badge, a sentence, and under
   "details" what was hidden, with maps that know nothing of the model beside it. */

import { isAbortError, requestJson } from "./api.js";
import { createElement, debounce } from "./dom.js";
import { decodeArray, formatNumber, Stage } from "./viewer.js";

// As the report says it.
const CAVEAT =
  "Each test says whether the model\u2019s answer on that picture depends on the patches that the map marks, and not whether these patches lie on the object.";
const TIMEOUT = 600; // seconds: the model is run on about 400 changed pictures

export function createVerdictPanel(app) {
  const badge = createElement("span", { class: "badge" }, "not checked");
  const sentence = createElement("p", {});
  const otherMap = createElement("p", { class: "other-map", hidden: true });
  const wrongAnswer = createElement("p", { class: "wrong" });
  const numbers = createElement("div", { class: "evidence" });
  const controls = createElement("div", { class: "controls" });
  const details = createElement(
    "details",
    { ontoggle: () => app.state.tab === "classify" && app.set({ controls: details.open ? "1" : "" }) },
    createElement("summary", {}, "What was hidden"),
    numbers,
    createElement("p", { class: "small grey" }, "Maps that know nothing of this model, or of this picture, on the same scale:"),
    controls,
  );
  const heading = createElement("h2", { class: "eyebrow" });
  const root = createElement(
    "section",
    { class: "verdict" },
    heading,
    otherMap,
    createElement("div", { class: "finding", "aria-live": "polite" }, badge, sentence, wrongAnswer),
    createElement("p", { class: "small grey caveat" }, CAVEAT),
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
    numbers.replaceChildren(...renderNumbers(result));
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
    heading.textContent = `Does the answer depend on what ${which ? `the ${which}` : "this"} map marks?`;
    root.setAttribute("aria-label", which ? `Verdict on the ${which} map` : "Verdict");
  }

  setHeading("");
  return {
    root,
    setHeading,
    /* Patches with outlier tokens of a pane's map; none until its verdict has come. */
    outliers: (pane) => (answer && pane.question && question === JSON.stringify([pane.question]) ? answer.outliers || [] : []),
    /* While the map of a patch [row, column] is shown, this verdict is of another map, and says so; null ends that. */
    setOtherMap(patch) {
      root.classList.toggle("of-other-map", Boolean(patch));
      otherMap.hidden = !patch;
      otherMap.textContent = patch
        ? `Not of the map that you see now, of the patch in row ${patch[0]}, column ${patch[1]}: maps of single patches are not tested. This is the verdict on the model\u2019s own map.`
        : "";
    },
    /* Show no verdict: there is no map. */
    clear() {
      question = "";
      wrongAnswer.textContent = "";
      abortController?.abort();
      setVerdict("not checked", "");
    },
    /* Show the verdict on a pane's map; requests it once the map has stayed for half a second. */
    update(pane, scale) {
      const { query } = pane.parameters;
      wrongAnswer.textContent = describeWrongAnswer(pane);
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

/* What is left of the answer, by what was hidden (rows) and how many patches (columns), as the elements of a table. */
function renderNumbers({ label, answer, all_hidden, sets, draws, p }) {
  const format = (value) => value.toFixed(2);
  const rows = [
    ["strongest of this map", sets.map((each) => each.answer), p],
    [`random, median of ${draws}`, sets.map((each) => each.random), null],
    ["about the middle, median", sets.map((each) => each.compact), null],
    ["needed most by the random sets", sets.map((each) => each.most_needed), null],
  ];
  const head = createElement(
    "tr",
    {},
    createElement("th", { scope: "col" }, "Patches hidden"),
    sets.map((each) => createElement("th", { scope: "col" }, String(each.patches))),
    createElement("th", { scope: "col" }, "p"),
  );
  const body = rows.map(([name, values, each]) =>
    createElement(
      "tr",
      {},
      createElement("th", { scope: "row" }, name),
      values.map((value) => createElement("td", {}, format(value))),
      createElement("td", {}, each === null ? "" : each < 0.01 ? formatNumber(each) : each.toFixed(2)),
    ),
  );
  return [
    createElement("p", { class: "small grey" }, `What is left of ${label}, ${format(answer)} on the picture as it is and ${format(all_hidden)} with all patches hidden.`),
    createElement("table", {}, createElement("thead", {}, head), createElement("tbody", {}, body)),
  ];
}

/* That a map explains a wrong answer, where the picture's own label is known and is another. */
function describeWrongAnswer({ picture, model, result }) {
  if (!result || picture.label === null || !model.labels.includes(picture.label)) return "";
  const [{ label }] = result.predictions;
  if (label === picture.label) return "";
  return !result.target || result.target === label
    ? `This map explains a wrong answer: ${label}, where the true label is ${picture.label}.`
    : `The answer ${label} is wrong, and this map is not for it: it is for ${result.target}.`;
}
