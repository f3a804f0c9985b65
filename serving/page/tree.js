// The tree of generations: one row each, newest first; the way to the head is the straight line on the left.

import { s } from "./dom.js";

const ROW = 44;
const LANE = 24;
const LEFT = 22;

/** An SVG whose rows are links to #lineage/<n>. Verdict and standing are told by shape and in words. */
export function tree(lineage, chosen) {
  const rows = [...lineage.generations].sort((a, b) => a.generation - b.generation);
  const lanes = lanesOf(rows, lineage.head);
  const height = rows.length * ROW;
  const at = new Map(rows.map(({ generation }, row) => [
    generation, { x: LEFT + lanes.get(generation) * LANE, y: height - (row + 0.5) * ROW },
  ]));
  const words = LEFT + (Math.max(...lanes.values()) + 1) * LANE;
  const width = words + 225;
  return s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": "Tree of generations, newest first" },
    rows.map((row) => edge(row, at)),
    rows.map((row) => node(row, at.get(row.generation), words, width, lineage, row.generation === chosen)),
  );
}

function edge({ generation, parent, verdict }, at) {
  const to = at.get(generation);
  const from = at.get(parent);
  if (!from) return null;
  const bend = from.y - ROW;
  const path = from.x === to.x
    ? `M${from.x} ${from.y}V${to.y}`
    : `M${from.x} ${from.y}C${from.x} ${from.y - ROW / 2} ${to.x} ${bend + ROW / 2} ${to.x} ${bend}V${to.y}`;
  return s("path", { class: `edge ${verdict}`, d: path });
}

function node(generation, { x, y }, words, width, lineage, chosen) {
  const n = generation.generation;
  const says = standing(generation, lineage);
  const from = generation.parent === null ? "from the base" : `child of G${generation.parent}`;
  return s("a", {
    href: `#lineage/${n}`, class: `node ${generation.verdict}`, "aria-current": chosen ? "true" : null,
    "aria-label": `G${n}, ${from}, ${says}`,
  },
    s("rect", { class: "row", x: 1, y: y - ROW / 2 + 2, width: width - 2, height: ROW - 4, rx: 6 }),
    n === lineage.head ? s("circle", { class: "head", cx: x, cy: y, r: 10.5 }) : null,
    s("circle", { class: "dot", cx: x, cy: y, r: 6.5 }),
    generation.verdict === "rejected" ? s("path", { class: "cross", d: `M${x - 3} ${y - 3}l6 6m0-6l-6 6` }) : null,
    s("text", { x: words, y: y + 5 }, s("tspan", { class: "name" }, `G${n}`), ` ${says}`),
  );
}

/** "accepted, head, served now": what the tree says by shape. */
export function standing(generation, { head, served }) {
  const words = [generation.verdict];
  if (generation.generation === head) words.push("head");
  if (generation.generation === served?.current) words.push("served now");
  else if (generation.generation === served?.previous) words.push("served before");
  return words.join(", ");
}

/** Each generation's lane. The way to the head has lane 0; an accepted child stays in its parent's lane, a rejected
 *  one stands beside it, each further right where another line runs already. `rows` ascend by generation. */
export function lanesOf(rows, head) {
  const index = new Map(rows.map(({ generation }, row) => [generation, row]));
  const way = new Set();
  for (let n = head; index.has(n); n = rows[index.get(n)].parent) way.add(n);

  const lanes = new Map();
  const taken = []; // { lane, first, last }: rows that an edge and its child cover
  const ordered = [...rows.filter((row) => way.has(row.generation)), ...rows.filter((row) => !way.has(row.generation))];
  for (const { generation, parent, verdict } of ordered) {
    const last = index.get(generation);
    const first = index.has(parent) ? index.get(parent) + 1 : last;
    const free = (lane) => !taken.some((other) => other.lane === lane && other.first <= last && first <= other.last);
    let lane = (lanes.get(parent) ?? 0) + (verdict === "rejected" ? 1 : 0);
    while (!free(lane)) lane += 1;
    taken.push({ lane, first, last });
    lanes.set(generation, lane);
  }
  return lanes;
}
