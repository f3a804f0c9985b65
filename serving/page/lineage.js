// The lineage: the tree of generations, and for one of them what it was judged by and how it learned.

import { ApiError, get } from "./api.js";
import { curves, curveTable } from "./curves.js";
import { $, failure, h, number, s, time } from "./dom.js";
import { rewardPlot } from "./plot.js";
import { standing, tree } from "./tree.js";

let lineage = null;
let shown = null; // the generation whose details are shown
let calls = 0;

/** @param wanted a generation's number; null chooses the head, or the newest where there is no head */
export async function showLineage(wanted) {
  const call = (calls += 1);
  let found;
  try {
    found = await get("/lineage");
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (call !== calls) return;
    $("tree").replaceChildren();
    $("generation").replaceChildren();
    $("lineage-facts").replaceChildren(failure(`The lineage could not be read. ${error.message}`, () => showLineage(wanted)));
    return;
  }
  if (call !== calls) return; // another generation was chosen meanwhile
  lineage = found;
  showFacts();
  const numbers = lineage.generations.map((generation) => generation.generation);
  if (numbers.length === 0) {
    $("tree").replaceChildren(h("p", { class: "empty" }, "No generation has been judged yet."));
    $("generation").replaceChildren();
    return;
  }
  const chosen = wanted ?? lineage.head ?? Math.max(...numbers);
  showTree(chosen);
  await Promise.all([showGeneration(chosen), showRewards()]);
}

/** The reward vectors of labels and of the generations' probe answers; nothing where there are none. */
async function showRewards() {
  let found = null;
  try {
    found = await get("/lineage/rewards");
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
  }
  $("rewards").replaceChildren(...(found && found.points.length ? rewardPlot(found) : []));
}

function showFacts() {
  $("lineage-facts").replaceChildren(
    h("p", {}, h("strong", {}, lineage.lineage), ", on the base ", h("code", {}, lineage.base_sha.slice(0, 12))),
    ...(lineage.stop ? [h("p", { class: "stop" }, h("strong", {}, "Stopped: "), lineage.stop)] : []),
  );
}

/** Drawn anew, with the focus kept on the generation that was just chosen by keyboard. */
function showTree(chosen) {
  const focused = $("tree").contains(document.activeElement);
  $("tree").replaceChildren(tree(lineage, chosen), key());
  if (focused) $("tree").querySelector("[aria-current]")?.focus();
}

const key = () =>
  h("p", { class: "hint" }, "Newest first. Filled: accepted. Hollow with a cross: rejected. Ringed: the head.");

async function showGeneration(wanted) {
  const generation = lineage.generations.find((other) => other.generation === wanted);
  shown = wanted;
  if (!generation) {
    $("generation").replaceChildren(h("p", { class: "empty" }, "There is no such generation in this lineage."));
    return;
  }
  const place = h("div", { class: "curves" }, h("p", { class: "empty" }, "Reading the curves …"));
  $("generation").replaceChildren(
    h("h2", {}, `G${wanted}: ${standing(generation, lineage)}`),
    facts(generation),
    h("h3", {}, "Gates and evals"),
    evals(generation),
    h("h3", {}, "Loss"),
    place,
  );
  await showCurves(wanted, place);
}

function facts({ parent, reason, roles, trained_at }) {
  const from = parent === null ? "the base" : `G${parent}`;
  const blends = roles.filter(({ alpha }) => alpha !== 1).map(({ role, alpha }) => ` ${role}: α\u00a0=\u00a0${alpha} (between parent and child).`);
  return h("div", { class: "generation-facts" },
    reason ? h("p", {}, reason) : null,
    h("p", { class: "facts" }, "Trained from ", from, ", ", time(trained_at), ".", ...blends),
  );
}

function evals(generation) {
  if (generation.roles.length === 0) return h("p", { class: "empty" }, "No role is recorded.");
  return h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Gates and evals" },
    h("table", { class: "evals" },
      h("thead", {}, h("tr", {}, ["Eval", "Result", "Value", "Limit", "Interval", "n"].map((title) => h("th", { scope: "col" }, title)))),
      generation.roles.map((role) =>
        h("tbody", {},
          h("tr", { class: "role" }, h("th", { scope: "rowgroup", colspan: 6 },
            h("span", { class: `moon ${role.role}`, "aria-hidden": "true" }), role.role,
            h("span", { class: "facts" }, `${number(role.steps)} steps, learning rate ${role.lr}, loss ${digits(role.loss_start)} → ${digits(role.loss_end)}, adapter `,
              h("code", {}, role.adapter_sha.slice(0, 12))),
          )),
          role.evals.length ? gatesFirst(role.evals).map(evalRow) : h("tr", {}, h("td", { colspan: 6 }, "No eval is recorded.")),
        ),
      ),
    ),
  );
}

const gatesFirst = (all) => [...all.filter(isGate), ...all.filter((one) => !isGate(one))];

const isGate = ({ limit }) => Number.isFinite(limit);

function evalRow({ eval: name, value, low, high, n, limit = null, passed = null }) {
  const sign = { style_drift: "<", bare_glyphs: "≤", base_ability: "≥" }[name] ?? ">";
  const result = passed === null ? "not judged" : passed ? "passed" : "failed";
  return h("tr", { class: result.replace(" ", "-") },
    h("th", { scope: "row" }, name.replaceAll("_", " ")),
    h("td", { class: "result" }, result), // early, so that a phone shows it without scrolling
    h("td", {}, digits(value)),
    h("td", {}, limit === null ? "" : `${sign} ${limit}`),
    h("td", {}, n > 0 ? `${digits(low)} – ${digits(high)}` : "by definition", n > 0 ? interval(value, low, high, limit) : null),
    h("td", {}, number(n)),
  );
}

/** The row's figures once more as a picture from 0 to 1: interval, value, limit. */
function interval(value, low, high, limit) {
  const x = (share) => 2 + share * 76;
  return s("svg", { class: "interval", viewBox: "0 0 80 14", width: 80, height: 14, "aria-hidden": "true" },
    s("line", { class: "axis", x1: x(0), x2: x(1), y1: 7, y2: 7 }),
    s("line", { class: "range", x1: x(low), x2: x(high), y1: 7, y2: 7 }),
    limit === null ? null : s("line", { class: "limit", x1: x(limit), x2: x(limit), y1: 1, y2: 13 }),
    s("circle", { cx: x(value), cy: 7, r: 2.5 }),
  );
}

async function showCurves(wanted, place) {
  let series;
  try {
    series = await get(`/lineage/${wanted}/loss`);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (shown !== wanted) return;
    place.replaceChildren(
      error.code === 404
        ? h("p", { class: "empty" }, `The curves of G${wanted} are gone: ${error.message}`)
        : failure(error.message, () => showCurves(wanted, place)),
    );
    return;
  }
  if (shown !== wanted) return; // another generation was chosen meanwhile
  if (!Object.values(series).some((points) => points.length)) {
    place.replaceChildren(h("p", { class: "empty" }, `No loss of G${wanted} is recorded.`));
    return;
  }
  const picture = h("div", {});
  place.replaceChildren(picture, h("details", {}, h("summary", {}, "The same as a table"), curveTable(series)));
  let width = 0;
  new ResizeObserver(() => {
    if (picture.clientWidth === width || picture.clientWidth === 0) return;
    width = picture.clientWidth;
    picture.replaceChildren(curves(series, width));
  }).observe(picture);
}

const digits = (value) => (Number.isFinite(value) ? value.toFixed(3) : "not recorded");
