// The label of one stored answer: how it felt, five axes, and what it should have said.

import { ApiError, get, post } from "./api.js";
import { h } from "./dom.js";

const VALENCES = [
  [-2, "−2", "very bad"],
  [-1, "−1", "bad"],
  [0, "0", "neutral"],
  [1, "+1", "good"],
  [2, "+2", "very good"],
];

const LEVELS = [["high", "high"], ["low", "low"], ["", "none"]];

const AXES = [
  ["arousal", "Arousal", "how stirring it is"],
  ["discrepancy", "Discrepancy", "how far from what was expected"],
  ["prospect", "Prospect", "whether it looks ahead"],
  ["reflection", "Reflection", "whether it looks back"],
  ["broadcast", "Social broadcast", "whether one would tell others"],
];

const NAMES = ["valence", ...AXES.map(([name]) => name), "correction"];

/** Controls that save at once. The server replaces a label as a whole, so what is changed here is put over what is
 *  stored by then: another tab may have a correction that this one does not show. */
export function labelControls(turn) {
  const label = Object.fromEntries(NAMES.map((name) => [name, turn.label?.[name] ?? null]));
  const said = h("span", { class: "saved", role: "status" }, turn.label ? "Saved" : "");
  const count = h("span", { class: "count" }, summary(label));
  const unsent = {};
  let saving = false;
  let again = false;

  function set(name, value) {
    label[name] = unsent[name] = value;
    return save();
  }

  async function save() {
    count.textContent = summary(label);
    again = true;
    if (saving) return; // the one that runs sends what is newest when it is through
    saving = true;
    try {
      let stored;
      while (again) {
        again = false;
        said.textContent = "Saving …";
        const before = await stands();
        const sent = { ...unsent };
        stored = await post("/feedback", { turn: turn.id, ...before, ...sent });
        for (const name in sent) if (unsent[name] === sent[name]) delete unsent[name];
        for (const name of NAMES) label[name] = name in unsent ? unsent[name] : (stored.label?.[name] ?? null);
        count.textContent = summary(label);
      }
      said.textContent = stored.label ? "Saved" : "Taken back";
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      const retry = h("button", { type: "button", class: "quiet", onclick: save }, "Retry");
      said.replaceChildren(`Not saved: ${error.message} `, retry);
    } finally {
      saving = false;
    }
  }

  /** The label as it is stored now. */
  async function stands() {
    const turns = await get(`/conversations/${encodeURIComponent(turn.conversation)}`);
    const found = turns.find(({ id }) => id === turn.id)?.label;
    return Object.fromEntries(NAMES.map((name) => [name, found?.[name] ?? null]));
  }

  const valence = choice("Valence", `valence-${turn.id}`, VALENCES, label.valence, (value) => set("valence", value));
  const axes = AXES.map(([name, title, hint]) =>
    choice(title, `${name}-${turn.id}`, LEVELS, label[name] ?? "", (value) => set(name, value || null), hint));
  const noValence = h("button", { type: "button", class: "quiet", onclick: () => {
    for (const input of valence.querySelectorAll("input")) input.checked = false; // radio buttons cannot do it themselves
    set("valence", null);
  } }, "Take the valence back");

  return h("div", { class: "label" },
    valence,
    said,
    h("details", {},
      h("summary", {}, "More labels and correction", count),
      axes,
      noValence,
      correction(turn, label.correction, (text) => set("correction", text)),
    ),
  );
}

/** Native radio buttons, drawn as a row of buttons: one Tab stop, arrows inside. */
function choice(title, group, values, chosen, onchoose, hint) {
  return h("fieldset", { class: "choice" },
    h("legend", {}, title, hint ? h("span", { class: "hint" }, `, ${hint}`) : null),
    h("div", { class: "segments" }, values.map(([value, text, meaning]) =>
      h("label", { title: meaning },
        h("input", {
          type: "radio", name: group, value, checked: value === chosen, autocomplete: "off",
          "aria-label": meaning ? `${text}, ${meaning}` : null, onchange: () => onchoose(value),
        }),
        h("span", {}, text),
      ),
    )),
  );
}

function correction(turn, text, onsave) {
  const id = `correction-${turn.id}`;
  const unsaved = h("span", { class: "hint", hidden: true }, "Not saved yet");
  const box = h("textarea", { id, rows: 2, oninput: () => { unsaved.hidden = false; } });
  box.value = text ?? "";
  const save = () => {
    unsaved.hidden = true;
    onsave(box.value.trim() || null);
  };
  return h("div", { class: "correction" },
    h("label", { for: id }, "What it should have said"),
    box,
    h("div", { class: "row" }, h("button", { type: "button", class: "quiet", onclick: save }, "Save correction"), unsaved),
  );
}

function summary(label) {
  const axes = AXES.filter(([name]) => label[name]).map(([name, title]) => `${title.toLowerCase()} ${label[name]}`);
  if (label.correction) axes.push("corrected");
  return axes.length ? `: ${axes.join(", ")}` : "";
}
