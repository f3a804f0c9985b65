// Loss over steps, one line a role: told apart by dashes and colour, and readable as a sentence and as a table.

import { h, number, s } from "./dom.js";

const HEIGHT = 260;
const MARGIN = { left: 52, right: 14, top: 12, bottom: 42 };

/** @param series { role: [[step, loss], …] }  @param width of the picture, in CSS pixels */
export function curves(series, width) {
  const lines = Object.entries(series).filter(([, points]) => points.length);
  const all = lines.flatMap(([, points]) => points);
  const xTicks = ticks(Math.min(...all.map(([step]) => step)), Math.max(...all.map(([step]) => step)), width / 90);
  const yTicks = ticks(0, Math.max(...all.map(([, loss]) => loss)), 5);
  const x = scale(xTicks, MARGIN.left, width - MARGIN.right);
  const y = scale(yTicks, HEIGHT - MARGIN.bottom, MARGIN.top);
  const bottom = HEIGHT - MARGIN.bottom;

  return h("figure", {},
    h("figcaption", {}, lines.map(([role]) =>
      h("span", { class: "legend" }, s("svg", { width: 34, height: 10, "aria-hidden": "true" },
        s("line", { class: `curve ${role}`, x1: 1, x2: 33, y1: 5, y2: 5 })), role))),
    s("svg", { class: "chart", width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": sentence(lines) },
      yTicks.map((tick) => [
        s("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }),
        s("text", { class: "tick", x: MARGIN.left - 8, y: y(tick) + 4, "text-anchor": "end" }, String(tick)),
      ]).flat(),
      xTicks.map((tick) => [
        s("line", { class: "axis", x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 5 }),
        s("text", { class: "tick", x: x(tick), y: bottom + 19, "text-anchor": "middle" }, number(tick)),
      ]).flat(),
      s("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom }),
      s("line", { class: "axis", x1: MARGIN.left, x2: MARGIN.left, y1: MARGIN.top, y2: bottom }),
      s("text", { class: "title", x: (MARGIN.left + width - MARGIN.right) / 2, y: HEIGHT - 5, "text-anchor": "middle" }, "step"),
      s("text", { class: "title", x: 14, y: (MARGIN.top + bottom) / 2, "text-anchor": "middle",
        transform: `rotate(-90 14 ${(MARGIN.top + bottom) / 2})` }, "loss"),
      lines.map(([role, points]) =>
        s("polyline", { class: `curve ${role}`, points: points.map(([step, loss]) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(" ") })),
    ),
  );
}

/** Every recorded point: a row a step, a column a role. */
export function curveTable(series) {
  const roles = Object.keys(series);
  const steps = [...new Set(roles.flatMap((role) => series[role].map(([step]) => step)))].sort((a, b) => a - b);
  const loss = Object.fromEntries(roles.map((role) => [role, new Map(series[role])]));
  return h("div", { class: "wide tall", tabindex: "0", role: "region", "aria-label": "Loss of each step" },
    h("table", {},
      h("thead", {}, h("tr", {}, ["step", ...roles].map((title) => h("th", { scope: "col" }, title)))),
      h("tbody", {}, steps.map((step) =>
        h("tr", {}, h("th", { scope: "row" }, number(step)), roles.map((role) => h("td", {}, loss[role].get(step)?.toFixed(4) ?? ""))))),
    ),
  );
}

function sentence(lines) {
  const ends = lines.map(([role, points]) => {
    const [[first, from], [last, to]] = [points[0], points.at(-1)];
    return `${role} from ${from.toFixed(3)} at step ${number(first)} to ${to.toFixed(3)} at step ${number(last)}`;
  });
  return `Loss over steps: ${ends.join("; ")}.`;
}

/** Round values that cover low to high, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high > low ? high - low : 1) / Math.max(2, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const found = [];
  for (let k = Math.floor(low / step); k * step < high + step * 0.999; k += 1) found.push(Number((k * step).toPrecision(9)));
  if (found.length === 1) found.push(found[0] + step); // an axis has two ends
  return found;
}

function scale(ticksOfAxis, from, to) {
  const [low, high] = [ticksOfAxis[0], ticksOfAxis.at(-1)];
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}
