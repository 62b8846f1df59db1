/* The whole view as the page's address: #/classify?picture=0/s3&layer=4… Only what differs from the defaults is
   written, so that addresses stay short. */

const DEFAULTS = {
  tab: "classify",
  picture: "",
  // Classify
  model: "",
  method: "attention",
  layer: "-1",
  head: "mean",
  target: "",
  query: "",
  direction: "from",
  over: "from",
  strength: "0.8",
  patches: "",
  controls: "",
  // the second map beside it
  beside: "",
  method2: "attention",
  layer2: "-1",
  head2: "mean",
  // Positions
  cell: "",
  // Caption
  captioner: "",
  beams: "1",
  prefix: "",
  word: "",
  // Data
  outcome: "all",
  order: "sure",
  truth: "",
  answer: "",
};

export const TABS = ["classify", "positions", "caption", "data", "api"];

export function read() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const state = { ...DEFAULTS, tab: TABS.includes(path) ? path : "classify" };
  for (const [key, value] of new URLSearchParams(query)) if (key in DEFAULTS && key !== "tab") state[key] = value;
  return state;
}

export function address(state) {
  const changed = Object.entries(state).filter(([key, value]) => key !== "tab" && value !== DEFAULTS[key]);
  const query = new URLSearchParams(changed).toString().replaceAll("%2F", "/").replaceAll("%3A", ":").replaceAll("%2C", ",");
  return `#/${state.tab}${query ? `?${query}` : ""}`;
}

export function write(state, push) {
  const next = address(state);
  if (next === location.hash) return;
  history[push ? "pushState" : "replaceState"](null, "", next);
}

/* What of a state belongs to the picture that is left, and is forgotten with it. */
export const OF_A_PICTURE = { query: "", direction: "from", target: "", prefix: "", word: "" };
