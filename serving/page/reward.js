// What the reward model makes of an answer: one number in sight, the vector folded away.

import { get } from "./api.js";
import { h } from "./dom.js";

const VALUES = [
  ["empathy", "Empathy"],
  ["social_coherence", "Social coherence"],
  ["agency_support", "Agency support"],
  ["epistemic_integrity", "Epistemic integrity"],
  ["harm_avoidance", "Harm avoidance"],
  ["narrative_alignment", "Narrative alignment"],
  ["curiosity", "Curiosity"],
  ["safety_score", "Safety"],
  ["reward_intensity", "Intensity, 0 to 1"],
];

const SIGNED = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2, signDisplay: "exceptZero" });
const WAITS = [400, 800, 1600, 3200, 6400]; // ms between two looks

/** @param turn one that has a score */
export function rewardDetails({ score, karma }) {
  const earned = karma === null ? "" : `, karma ${SIGNED.format(karma)}`;
  return h("details", { class: "reward" },
    h("summary", {}, `Reward ${SIGNED.format(score.scalar_preference)}${earned}`),
    h("table", { "aria-label": "Reward by dimension, −1 to 1" },
      h("tbody", {}, VALUES.map(([name, title]) =>
        h("tr", {},
          h("th", { scope: "row" }, title),
          h("td", {}, SIGNED.format(score[name])),
          h("td", { "aria-hidden": "true" }, h("meter", { min: -1, max: 1, value: score[name] })),
        ))),
    ),
  );
}

/** The turn once it is scored, which happens after it was given; null where it takes long or there is no server. */
export async function whenScored(turn) {
  for (const wait of WAITS) {
    await new Promise((resolve) => setTimeout(resolve, wait));
    const turns = await get(`/conversations/${encodeURIComponent(turn.conversation)}`, { ask: false }).catch(() => []);
    const found = turns.find((other) => other.id === turn.id);
    if (found?.score) return found;
  }
  return null;
}
