// The conversation: what was said, answers as they stream in, and the controls to label them.

import { ApiError, events, get, request } from "./api.js";
import { $, VOICES, announce, failure, h, number } from "./dom.js";
import { labelControls } from "./labels.js";
import { rewardDetails, whenScored } from "./reward.js";

const log = $("log");

const state = {
  conversation: null, // id; null until the server has stored the first answer of a new one
  running: null, // AbortController of the answer that streams in
  scores: false, // whether a reward model will score what is said
};

/** Whether the server scores answers. */
export function expectScores(expected) {
  state.scores = expected;
}

/** @param onstored called with the conversation's id when the server has stored an answer */
export function startChat(onstored) {
  const composer = $("composer");
  const message = $("message");
  rememberVoice();

  composer.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = message.value.trim();
    if (!text || state.running) return;
    message.value = "";
    say(text, chosenVoice(), onstored);
  });
  message.addEventListener("keydown", (event) => {
    // While an input method composes a word, Enter belongs to it.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    composer.requestSubmit();
  });
  $("stop").addEventListener("click", stop);
}

/** Show a stored conversation, or an empty one. What still streams in belongs to the one that is left, and stops. */
export async function openConversation(id) {
  stop();
  setRunning(null);
  state.conversation = id;
  if (id === null) return showEmpty();
  log.replaceChildren(h("p", { class: "empty" }, "Reading the conversation …"));
  try {
    const turns = await get(`/conversations/${encodeURIComponent(id)}`);
    if (state.conversation === id) showStored(turns);
  } catch (error) {
    if (state.conversation === id) log.replaceChildren(failure(plain(error), () => openConversation(id)));
  }
}

export const openId = () => state.conversation;

async function say(message, voice, onstored) {
  const running = new AbortController();
  setRunning(running);
  log.querySelector(".empty")?.remove();
  const exchange = addExchange(message);
  exchange.scrollTo();
  let writing = null;
  try {
    const path = voice === "all" ? "/dialogue" : "/generate";
    const body = { message, conversation: state.conversation };
    if (voice !== "all") Object.assign(body, { role: voice, stream: true });
    const response = await request(path, { body, signal: running.signal });
    let ended = false;
    for await (const { name, data } of events(response)) {
      if (name === "start") {
        writing = exchange.begin(data, voice === "all");
        exchange.tellUnread(data);
      } else if (name === "token") {
        writing.write(data.text);
      } else if (name === "turn") {
        writing.store(data);
        announce(`${writing.title}: ${data.answer || "an empty answer"}`);
        writing = null;
        took(data.conversation);
      } else if (name === "error") {
        throw new ApiError(data.message, 0);
      } else if (name === "end") {
        ended = true;
      }
    }
    if (!ended) throw new ApiError("The connection ended before the answer did.", 0);
  } catch (error) {
    writing?.breakOff();
    if (error.name === "AbortError") await stopped();
    else exchange.fail(plain(error), () => {
      if (state.running) return;
      exchange.remove();
      say(message, voice, onstored);
    });
  } finally {
    exchange.done();
    if (state.running === running) setRunning(null);
  }

  function took(id) {
    if (!exchange.isOpen()) return; // another conversation is shown by now
    state.conversation = id;
    onstored(id);
  }

  /** What was said until then is stored, and the conversation goes on from it. */
  async function stopped() {
    exchange.note("Stopped.");
    if (!writing || !exchange.isOpen()) return;
    const turn = await storedAfterStop(writing).catch(() => null);
    if (!turn) return exchange.note("What was said until then was not stored.");
    writing.store(turn);
    took(turn.conversation);
  }
}

/** A stop cuts the connection before the stored turn can come through it, so it is looked up a moment later. */
async function storedAfterStop({ conversation, turn }) {
  for (let attempt = 0; attempt < 20; attempt += 1) {
    await new Promise((resolve) => setTimeout(resolve, 300));
    const turns = await get(`/conversations/${encodeURIComponent(conversation)}`).catch((error) => {
      if (error.code === 404) return []; // its first answer is not stored yet
      throw error;
    });
    const found = turns.find((stored) => stored.id === turn);
    if (found) return found;
  }
  return null;
}

function stop() {
  state.running?.abort();
}

function setRunning(running) {
  const focused = document.activeElement === $("stop");
  state.running = running;
  $("send").hidden = running !== null;
  $("stop").hidden = running === null;
  if (focused) $("message").focus(); // a hidden button would lose the focus to the body
}

/** One message and its answers. */
function addExchange(message) {
  const waiting = h("p", { class: "waiting" }, "Waiting for an answer …");
  const answers = h("div", { class: "answers" });
  const element = h("section", { class: "exchange" },
    h("div", { class: "said" }, h("h2", {}, "You"), h("p", { class: "text" }, message)),
    answers,
    waiting,
  );
  log.append(element);
  let unread = null;

  return {
    /** @param start { role, generation } of the answer that begins, or a stored turn */
    begin(start, dialogue) {
      waiting.remove();
      return following(() => addAnswer(answers, start, dialogue));
    },
    /** What the voice that begins does not read. @param start the event of its beginning */
    tellUnread({ context_dropped: dropped, text_cut: cut }) {
      const which = dropped === 1 ? "oldest exchange is" : `${number(dropped)} oldest exchanges are`;
      const told = [
        dropped ? `The ${which} no longer read: there is no room for more.` : "",
        cut ? "A text is too long: its middle is not read." : "",
      ].filter(Boolean).join(" ");
      if (!told) return;
      unread ??= answers.insertAdjacentElement("beforebegin", h("p", { class: "note unread" }));
      unread.textContent = told;
    },
    fail(why, retry) {
      element.append(failure(why, retry));
      toEnd();
    },
    note(text) {
      element.append(h("p", { class: "note", role: "status" }, text));
      toEnd();
    },
    isOpen: () => element.isConnected,
    done: () => waiting.remove(),
    remove: () => element.remove(),
    scrollTo: toEnd,
  };
}

/** An article that text streams into, and that the stored turn completes. */
function addAnswer(answers, start, dialogue) {
  const voice = VOICES[start.role] ?? { name: start.role, part: start.role };
  const title = dialogue ? voice.part : voice.name;
  const text = h("p", { class: "text" });
  const facts = h("span", { class: "facts" });
  const element = h("article", { class: `answer ${start.role}${dialogue ? " part" : ""}`, "aria-busy": "true" },
    h("header", {},
      h("span", { class: `moon ${start.role}`, "aria-hidden": "true" }),
      h("h3", {}, title),
      dialogue ? h("span", { class: "facts" }, voice.name.toLowerCase()) : null,
      start.generation === null ? null : h("span", { class: "facts" }, `G${start.generation}`),
      facts,
    ),
    text,
  );
  answers.append(element);

  return {
    conversation: start.conversation,
    turn: start.turn,
    title,
    write: (piece) => following(() => text.append(piece)), // append makes a text node of a string
    /** @param fresh whether it has just been said */
    store: (turn, fresh = true) => following(() => {
      text.textContent = turn.answer;
      if (!turn.answer.trim()) text.replaceChildren(h("em", {}, "An empty answer."));
      facts.textContent = `${number(turn.answer_tokens)} tokens in ${number(turn.seconds)} s${ENDED[turn.finish_reason] ?? ""}`;
      const label = labelControls(turn);
      element.append(label);
      element.removeAttribute("aria-busy");
      element.classList.remove("broken");
      if (turn.score) label.before(rewardDetails(turn));
      else if (fresh && state.scores && turn.finish_reason !== "aborted") {
        whenScored(turn).then((scored) => scored && following(() => label.before(rewardDetails(scored))));
      }
    }),
    breakOff() {
      element.removeAttribute("aria-busy");
      element.classList.add("broken");
    },
  };
}

const ENDED = { length: ", cut off at the token limit", aborted: ", stopped" };

/** Make a change to the log; whoever reads its end stays there, whoever has scrolled up stays where they are. */
function following(change) {
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  const result = change();
  if (follows) toEnd();
  return result;
}

function toEnd() {
  log.scrollTop = log.scrollHeight;
}

function showEmpty() {
  log.replaceChildren(
    h("div", { class: "empty" },
      h("p", {}, "Nothing said yet."),
      h("p", {}, "The dialectical voice answers by itself, or all three do: a thesis, an antithesis, and the synthesis of both. " +
        "Every answer can be labelled and corrected."),
    ),
  );
}

function showStored(turns) {
  log.replaceChildren();
  for (const group of grouped(turns)) {
    const exchange = addExchange(group[0].message);
    for (const turn of group) exchange.begin(turn, turn.kind === "dialogue").store(turn, false);
  }
  toEnd();
}

/** The turns of one dialogue belong together; every other turn stands alone. */
export function grouped(turns) {
  const groups = [];
  for (const turn of turns) {
    const last = groups.at(-1);
    const joins =
      turn.kind === "dialogue" && last?.[0].kind === "dialogue" && last[0].message === turn.message &&
      !last.some((other) => other.role === turn.role);
    if (joins) last.push(turn);
    else groups.push([turn]);
  }
  return groups;
}

const chosenVoice = () => $("composer").elements.voice.value;

/** The voice chosen last is chosen again next time. */
function rememberVoice() {
  const voices = $("composer").elements.voice;
  const remembered = localStorage.getItem("luna-voice");
  if ([...voices].some((radio) => radio.value === remembered)) voices.value = remembered;
  for (const radio of voices) radio.addEventListener("change", () => localStorage.setItem("luna-voice", radio.value));
}

function plain(error) {
  if (!(error instanceof ApiError)) console.error(error); // a fault of this page's own
  return error.message;
}
