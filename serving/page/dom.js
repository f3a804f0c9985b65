// Elements from data. Text becomes text nodes, never markup, so what a model writes cannot become part of the page.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

/** An HTML element: h("p", { class: "note" }, "text", child). A property that is null or false is left out. */
export const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);

/** The same for SVG. */
export const s = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Tell people who listen to the page instead of looking at it. */
export function announce(text) {
  $("announcer").textContent = text;
}

/** An error in plain words, with a way to try again. */
export function failure(message, retry) {
  const button = h("button", { type: "button", class: "quiet", onclick: retry }, "Retry");
  return h("div", { class: "failure", role: "alert" }, h("p", {}, message), button);
}

const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** A <time> in the reader's own zone; the text as it came where it is no date. */
export function time(iso) {
  const date = new Date(iso);
  return Number.isNaN(date.valueOf()) ? String(iso) : h("time", { datetime: iso }, DATE.format(date));
}

export const number = (value) => NUMBER.format(value);

/** What the page calls a voice, and its part in a dialogue. */
export const VOICES = {
  creative: { name: "Creative voice", part: "Thesis" },
  logical: { name: "Logical voice", part: "Antithesis" },
  dialectical: { name: "Dialectical voice", part: "Synthesis" },
  base: { name: "Base model", part: "Base model" },
};
