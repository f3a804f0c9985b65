// The reward space: each judgement a point on the first two principal components of its seven dimensions.

import { h, s } from "./dom.js";

const WIDTH = 520;
const HEIGHT = 340;
const EDGE = 14;

/** A heading, the picture with its key, and in words what the axes mean; drawn from /lineage/rewards. */
export function rewardPlot({ points, axes, categories, course }) {
  const x = scale(points.map((point) => point.x), EDGE, WIDTH - EDGE);
  const y = scale(points.map((point) => point.y), HEIGHT - EDGE, EDGE);
  const says = `${points.length} judgements by category`;
  return [
    h("h2", {}, "Reward"),
    h("figure", { class: "reward-plot" },
      s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": says },
        points.map((point) =>
          s("circle", { class: `point kind-${categories.indexOf(point.category) % 6}`, cx: x(point.x), cy: y(point.y), r: 3.5 },
            s("title", {}, `${point.source}, ${point.category}`)),
        ),
      ),
      h("ul", { class: "plot-key" }, categories.map((category, number) =>
        h("li", {}, h("span", { class: `swatch kind-${number % 6}`, "aria-hidden": "true" }), category.replaceAll("_", " ")))),
      h("figcaption", { class: "hint" }, `${says}. `, axes.map((axis, number) =>
        `${number ? "Up" : "To the right"}: ${strongest(axis.loadings)} (${Math.round(100 * axis.explained)} % of the variance). `)),
    ),
    course.length ? healthTable(course) : null,
  ].filter(Boolean);
}

function healthTable(course) {
  const roles = Object.keys(course[0].roles);
  return h("table", { class: "evals" },
    h("caption", {}, "Reward health (RHI) by generation"),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Generation"), roles.map((role) => h("th", { scope: "col" }, role)))),
    h("tbody", {}, course.map((step) =>
      h("tr", {}, h("th", { scope: "row" }, `G${step.gen_id}`), roles.map((role) => h("td", {}, step.roles[role]?.rhi.toFixed(3) ?? ""))))),
  );
}

function scale(values, from, to) {
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  return (value) => (from + ((value - low) / span) * (to - from)).toFixed(1);
}

/** The two dimensions that make an axis, with their direction. */
function strongest(loadings) {
  return Object.entries(loadings)
    .sort(([, a], [, b]) => Math.abs(b) - Math.abs(a))
    .slice(0, 2)
    .map(([name, loading]) => `${loading < 0 ? "less" : "more"} ${name.replaceAll("_", " ")}`)
    .join(", ");
}
