/* The tab API: what the server answers, from its own description. */

import { ask, getJson } from "./api.js";
import { h } from "./dom.js";

const LONGEST = 2000; // characters of an answer that are shown

export function apiPage(app) {
  const list = h("div", { class: "operations" });
  const intro = h("div", { class: "lead" });
  const root = h("div", { class: "page api" }, h("h1", { class: "title" }, "The API"), intro, list);
  let drawn = false;
  return {
    root,
    async update() {
      if (drawn) return;
      try {
        const description = await getJson("/openapi.json");
        drawn = true;
        draw(description);
      } catch (error) {
        app.trouble(error, () => app.set({}));
      }
    },
  };

  function draw(description) {
    intro.replaceChildren(
      h("p", {}, description.info.description || "Everything on this page comes from these addresses, and nothing else."),
      h("p", { class: "small grey" }, `${description.info.title} ${description.info.version} \u00b7 OpenAPI ${description.openapi} \u00b7 `, h("a", { href: "/openapi.json" }, "openapi.json")),
    );
    const operations = Object.entries(description.paths).flatMap(([path, methods]) =>
      Object.entries(methods)
        .filter(([method]) => ["get", "post", "put", "delete"].includes(method))
        .map(([method, operation]) => [method, path, operation]),
    );
    list.replaceChildren(...operations.map(([method, path, operation]) => shown(method, path, operation, description)));
  }
}

/* What a $ref points to. */
function resolved(schema, description) {
  if (!schema?.$ref) return schema || {};
  return schema.$ref.split("/").slice(1).reduce((found, key) => found[key], description);
}

function typeOf(schema, description) {
  const found = resolved(schema, description);
  if (found.anyOf) return found.anyOf.map((each) => typeOf(each, description)).join(" or ");
  if (found.enum) return found.enum.join(" | ");
  if (found.const !== undefined) return String(found.const);
  if (found.type === "array") return `list of ${typeOf(found.items, description)}`;
  return found.title && found.type === "object" ? found.title : found.type || "anything";
}

function shown(method, path, operation, description) {
  const parameters = (operation.parameters || []).map((each) => resolved(each, description));
  const body = resolved(operation.requestBody, description).content;
  const row = ({ name, in: where, required, schema, description: words }) => {
    const preset = schema?.default === undefined ? "" : ` Default: ${JSON.stringify(schema.default)}.`;
    return h("tr", {}, h("th", { scope: "row" }, h("code", {}, name)), h("td", {}, `${where}${required ? ", required" : ""}`), h("td", {}, typeOf(schema, description)), h("td", {}, `${words || ""}${preset}`));
  };
  const table =
    parameters.length > 0 &&
    h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["parameter", "where", "type", "meaning"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, parameters.map(row))));
  const answers = Object.entries(operation.responses || {}).map(([status, answer]) => {
    const kinds = Object.keys(resolved(answer, description).content || {}).join(", ");
    return h("li", {}, h("code", {}, status), ` ${resolved(answer, description).description || ""}${kinds ? ` \u00b7 ${kinds}` : ""}`);
  });
  const simple = method === "get" && !path.includes("{") && !parameters.some(({ required }) => required);
  return h(
    "details",
    { class: "operation" },
    h("summary", {}, h("span", { class: "method", "data-method": method }, method.toUpperCase()), h("code", {}, path), h("span", { class: "grey" }, operation.summary || "")),
    ...[
      operation.description && h("p", {}, operation.description),
      table,
      body && h("p", {}, `Body: ${Object.keys(body).join(", ")}`),
      answers.length > 0 && h("ul", { class: "answers-list" }, answers),
      h("pre", { tabindex: "0", "aria-label": "Example" }, h("code", {}, example(method, path, parameters, body))),
      simple && tried(path),
    ].filter(Boolean),
  );
}

function example(method, path, parameters, body) {
  const needed = parameters.filter(({ in: where, required }) => where === "query" && required).map(({ name }) => `${name}=${name === "model" ? "0" : "\u2026"}`);
  const query = needed.length ? `?${needed.join("&")}` : "";
  const given = body ? " --data-binary @picture.jpg" : method === "post" ? " -X POST" : "";
  return `curl${given} '${location.origin}${path}${query}'`;
}

function tried(path) {
  const output = h("pre", { tabindex: "0", hidden: true, "aria-label": "Answer" });
  const press = async () => {
    output.hidden = false;
    try {
      const text = await (await ask(path)).text();
      output.textContent = text.length > LONGEST ? `${text.slice(0, LONGEST)}\u2026 (${text.length} characters)` : text;
    } catch (error) {
      output.textContent = error.message;
    }
  };
  return h("div", {}, h("button", { type: "button", onclick: press }, "Try it"), output);
}
