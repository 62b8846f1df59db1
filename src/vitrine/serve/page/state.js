/* The state of the whole view as the page's address: #/classify?picture=0/s3&layer=4… Only what differs from the defaults is
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
  strength: "1",
  patches: "",
  contour: "",
  controls: "",
  // the second map beside it
  beside: "",
  method2: "attention",
  layer2: "-1",
  head2: "mean",
  // Features: fitted to this picture alone, to the foreground; regions, and the patch that others are compared with
  alone: "",
  foreground: "",
  regions: "",
  like: "",
  // Positions
  cell: "",
  // Caption
  captioner: "",
  prompt: "",
  layers: "-1",
  reading: "attention",
  beams: "1",
  prefix: "",
  word: "",
  // Data
  outcome: "all",
  order: "sure",
  truth: "",
  answer: "",
};

export const TABS = ["classify", "features", "positions", "caption", "data", "api"];

export function readState() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const state = { ...DEFAULTS, tab: TABS.includes(path) ? path : "classify" };
  for (const [key, value] of new URLSearchParams(query)) if (key in DEFAULTS && key !== "tab") state[key] = value;
  return state;
}

export function stateToHash(state) {
  const entries = Object.entries(state).filter(([key, value]) => key !== "tab" && value !== DEFAULTS[key]);
  const query = new URLSearchParams(entries).toString().replaceAll("%2F", "/").replaceAll("%3A", ":").replaceAll("%2C", ",");
  return `#/${state.tab}${query ? `?${query}` : ""}`;
}

export function writeState(state, push) {
  const next = stateToHash(state);
  if (next === location.hash) return;
  history[push ? "pushState" : "replaceState"](null, "", next);
}

/* Parts of the state that are reset when another picture is chosen. */
export const PICTURE_DEFAULTS = { query: "", direction: "from", target: "", like: "", prefix: "", word: "" };
