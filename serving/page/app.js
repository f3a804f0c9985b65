// What is around the conversation: the address, the header, the list of conversations, the theme.
//
//   #chat            a new conversation
//   #c/<id>          a stored one
//   #lineage[/<n>]   the tree of generations, and one of them

import { expectScores, openConversation, openId, startChat } from "./chat.js";
import { ApiError, get } from "./api.js";
import { $, failure, h, number, time } from "./dom.js";
import { showLineage } from "./lineage.js";

const REFRESH = 20_000; // ms between two looks at the server's state

startChat(stored);
theme();
drawer();
$("new").addEventListener("click", () => {
  openConversation(null);
  location.hash = "#chat";
  route(); // now, since what is hidden takes no focus
  $("message").focus();
});
$("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is for views
  $("main").focus();
});
addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
setInterval(() => document.hidden || refresh(), REFRESH);

openConversation(null);
route();
await listConversations(); // which asks for the key, where one is needed
refresh();

function route() {
  const [view, id = null] = location.hash.slice(1).split("/");
  const lineage = view === "lineage";
  $("chat").hidden = lineage;
  $("lineage").hidden = !lineage;
  for (const [link, here] of [["to-chat", !lineage], ["to-lineage", lineage]]) {
    if (here) $(link).setAttribute("aria-current", "page");
    else $(link).removeAttribute("aria-current");
  }
  document.title = lineage ? "Luna: lineage" : "Luna";
  closeDrawer();
  if (lineage) return showLineage(id === null ? null : Number(id));
  const wanted = view === "c" ? id : null;
  if (wanted !== openId()) openConversation(wanted);
  chatAddress(wanted);
  markOpen();
}

/** The server has stored an answer: the address names the conversation, the list shows it, karma may have changed. */
function stored(id) {
  if (!$("chat").hidden) history.replaceState(null, "", `#c/${id}`);
  chatAddress(id);
  listConversations();
  refresh();
}

/** From the lineage, "Chat" leads back to the conversation that is open. */
function chatAddress(id) {
  $("to-chat").href = id === null ? "#chat" : `#c/${id}`;
}

async function listConversations() {
  const place = $("conversations");
  try {
    const found = await get("/conversations");
    place.replaceChildren(
      found.length === 0
        ? h("p", { class: "empty" }, "None yet.")
        : h("ul", {}, found.map(({ conversation, title, turns, last_at }) =>
            h("li", {}, h("a", { href: `#c/${conversation}`, "data-id": conversation },
              h("span", { class: "title" }, title || "(no text)"),
              h("span", { class: "facts" }, time(last_at), `, ${turns} ${turns === 1 ? "answer" : "answers"}`),
            )),
          )),
    );
    markOpen();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    place.replaceChildren(failure(`The list could not be read. ${error.message}`, listConversations));
  }
}

function markOpen() {
  for (const link of $("conversations").querySelectorAll("a")) {
    if (link.dataset.id === openId() && !$("chat").hidden) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** The header: what answers, how far it has grown, whether it can be reached. Never asks for the key by itself. */
async function refresh() {
  const [health, lineage] = await Promise.all([
    get("/healthz", { ask: false }).then(() => ["ok", "connected"], (error) =>
      error.code === 0 ? ["gone", "no connection"] : ["bad", error.message]),
    get("/lineage", { ask: false }).catch(() => null),
  ]);
  $("connection").dataset.state = health[0];
  setText("connection-text", health[1]);
  showState(lineage);
}

function showState(lineage) {
  if (lineage) expectScores(lineage.reward_model !== null);
  const current = lineage?.served?.current ?? null;
  if (lineage === null) setText("answering", "State unknown");
  else setText("answering", current === null ? "No generation is served" : `G${current} answers`);
  $("age").hidden = !lineage?.age;
  if (lineage?.age) setText("age", `age ${lineage.age.number}, ${lineage.age.name}`);
  $("karma").hidden = !lineage?.karma;
  if (lineage?.karma) {
    setText("karma-text", `karma ${number(lineage.karma.earned)} of ${number(lineage.karma.threshold)}`);
    $("karma-bar").value = lineage.karma.progress;
  }
}

/** Only where it differs, so that a text somebody selects or listens to is not replaced by itself. */
function setText(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

/** The system's theme until the reader chooses; the choice is remembered (theme.js applies it on the next load). */
function theme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => $("theme").setAttribute("aria-pressed", String(dark()));
  $("theme").addEventListener("click", () => {
    const chosen = dark() ? "light" : "dark";
    document.documentElement.dataset.theme = chosen;
    localStorage.setItem("luna-theme", chosen);
    show();
  });
  system.addEventListener("change", show);
  show();
}

/** On a narrow screen the list of conversations is folded away. */
function drawer() {
  $("drawer").addEventListener("click", () => {
    const open = document.body.classList.toggle("drawer-open");
    $("drawer").setAttribute("aria-expanded", String(open));
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !document.body.classList.contains("drawer-open")) return;
    closeDrawer();
    $("drawer").focus();
  });
}

function closeDrawer() {
  document.body.classList.remove("drawer-open");
  $("drawer").setAttribute("aria-expanded", "false");
}
