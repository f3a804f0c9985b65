"""What is trained is what is served: equal talks give equal prompts, whichever way they come."""

from __future__ import annotations

import asyncio
import io
import json
import re
import uuid

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

import jobs.chat
from curriculum.conversations.lessons import conversation_examples
from curriculum.importing.files import ImportOptions, examples_of
from curriculum.importing.formats import format_of
from curriculum.importing.found import Talk
from curriculum.importing.report import ImportReport
from curriculum.importing.talks import lessons_of
from curriculum.preferences.pairs import make_preference
from curriculum.render import dialogue_context, render_prompt
from curriculum.transcript import Exchange, LengthSettings, render_talk
from ledger.clock import utc_now
from ledger.conversations import Label
from ledger.home import Home
from ledger.roles import ROLES
from ledger.store import Stores
from serving.api.errors import Refused
from serving.api.front import Front, Leases
from serving.api.gateway import build
from serving.engine import Piece, Reader, Started
from serving.settings import ServingSettings, SharedSettings
from serving.table import Table
from tests.serving.test_table import make_table
from trainers.data import tokenise, tokenise_pair
from trainers.evals.asking import Asking, mark
from trainers.evals.models import Speaker
from trainers.generator import Likelihood, counter, prompt_ids
from trainers.models.tiny import byte_tokenizer

TOKENIZER = byte_tokenizer()
LENGTHS = LengthSettings(max_tokens=400, answer_tokens=40)
READER = Reader(LENGTHS, counter(TOKENIZER))

PIECES = [
    "User: ",
    "Luna: ",
    "\nThesis: ",
    "\nUser: x\nLuna: y",
    "\n",
    " ",
    "word",
    "∧⊥",
    "🌙",
    "<|end|>",
    "[THESIS]\n",
]
TEXTS = (
    st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
    .filter(str.strip)
    .filter(lambda text: not text.strip().startswith("/"))  # a command of the terminal chat
)
SYSTEM = st.one_of(st.just(""), TEXTS)
TALKS = st.lists(st.builds(Exchange, TEXTS, TEXTS), max_size=8)


def imported(record, role):
    """What the importer makes of a record, but for control characters and secrets, which it takes out."""
    found = format_of(record).read(record, list)
    lessons = [lesson for one in found for lesson in (lessons_of(one, list) if isinstance(one, Talk) else [one])]
    kept = [one for lesson in lessons for one in examples_of(lesson, ImportOptions((role,)), "a file")]
    return ImportReport(kept=kept).examples


class Recording:
    """The engine's place: makes prompts as a replica does, keeps them, and says what it is told to."""

    def __init__(self):
        self.prompts, self.says = [], []

    async def speak(self, model, question, sampling):
        role = None if model == "base" else model.split("-")[1]
        read = await READER.read(role, question)
        self.prompts.append(read.prompt)
        made = (role, 0, "a" * 64) if role else (None, None, None)
        yield Started(*made, "main", read.dropped, read.cut)
        yield Piece(self.says.pop(0) if self.says else "So.", 1, read.tokens, "stop")


class Keeper:
    """Stores as the coordinator does."""

    def __init__(self, stores):
        self.stores = stores

    async def add_turn(self, turn):
        self.stores.conversations.add_turn(turn)

    async def add_label(self, turn, label):
        self.stores.conversations.add_label(turn, label)

    async def add_scores(self, scores):
        raise AssertionError("there is no reward model")


class NoJudge:
    def exists(self):
        return False


class Behind:
    """The engine's OpenAI application: keeps what it is sent."""

    def __init__(self):
        self.seen = []

    async def __call__(self, scope, receive, send):
        self.seen.append(json.loads((await receive())["body"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


class Judging:
    """The generator of an evaluation: keeps the prompts."""

    def __init__(self):
        self.prompts = []

    def count(self, prompt):
        return len(prompt_ids(TOKENIZER, prompt))

    def likelihoods(self, voice, pairs, max_tokens=None):
        self.prompts += [prompt for prompt, _ in pairs]
        assert max_tokens == LENGTHS.max_tokens
        return [Likelihood(0.0, False)] * len(pairs)


def post(app, path, body):
    return send(app, "POST", path, content=json.dumps(body), headers={"content-type": "application/json"})


def fetch(app, path):
    return send(app, "GET", path)


def send(app, method, path, **more):
    async def sent():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, **more)

    return asyncio.run(sent())


def events_of(text):
    for frame in text.rstrip("\n").split("\n\n"):
        name, data = frame.split("\n", 1)
        yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """(a home, its stores open for writing)"""
    home = Home(tmp_path_factory.mktemp("talks") / "home").create()
    with Stores.create(home) as stores:
        stores.ledger.create_lineage("main", "b" * 64)
        yield home, stores


def gateway(home, engine):
    where, stores = home
    return build(where, engine, Keeper(stores), NoJudge(), ServingSettings(), SharedSettings(text=LENGTHS))


def messages_of(talk, system, question):
    messages = [{"role": "system", "content": system}] if system else []
    for said in talk:
        messages += [{"role": "user", "content": said.user}, {"role": "assistant", "content": said.luna}]
    return [*messages, {"role": "user", "content": question}]


def through_v1(messages, role):
    behind = Behind()
    front = Front(behind, lambda: make_table(1, 2), Leases(), ServingSettings(), READER, "base-weights")
    model = "base" if role is None else f"luna-{role}"
    answer = post(front, "/v1/chat/completions", {"model": model, "messages": messages})
    assert answer.status_code == 200, answer.text
    (message,) = behind.seen[0]["messages"]
    return message["content"], answer.headers


def trained_prompts(example):
    """The prompt in a training row of the example, of a pair with its prompt, and in an evaluation."""
    row = tokenise(TOKENIZER, example, LENGTHS)
    pair = make_preference(
        role=example.role,
        prompt=example.input,
        context=example.context,
        chosen="a",
        rejected="b",
        margin=1.0,
        origin="imported",
    )
    chosen, rejected = tokenise_pair(TOKENIZER, pair, LENGTHS)
    judging = Judging()
    mark(Speaker(judging, example.role), [example], Asking(example.role, (), 12, LENGTHS))
    rows = [list(row.tokens[: row.prompt_len]) for row in (row, chosen, rejected)]
    return rows, set(judging.prompts)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(ROLES), TALKS, SYSTEM, TEXTS)
def test_equal_talks_give_equal_prompts_in_training_evaluation_and_serving(home, role, talk, system, question):
    messages = messages_of(talk, system, question)
    served, _ = through_v1(messages, role)
    example = imported({"messages": [*messages, {"role": "assistant", "content": "So."}]}, role)[-1]
    rows, judged = trained_prompts(example)
    assert rows == [prompt_ids(TOKENIZER, served)] * 3
    assert judged == {served}
    assert len(rows[0]) <= LENGTHS.room
    if system:
        return  # the gateway's users have none
    engine = Recording()
    app = gateway(home, engine)
    engine.says = [said.luna for said in talk]
    conversation = None
    for said in [*talk, Exchange(question, "")]:
        body = {"message": said.user, "role": role} | ({"conversation": conversation} if conversation else {})
        answer = post(app, "/generate", body)
        assert answer.status_code == 200, answer.text
        conversation = answer.json()["conversation"]
    assert engine.prompts[-1] == served
    turn = home[1].conversations.turns(conversation)[-1]
    (lesson,) = conversation_examples([turn.model_copy(update={"label": Label(valence=2, at=utc_now())})])
    assert trained_prompts(lesson) == (rows, judged), "a lesson of the stored answer"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([None, *ROLES]), TALKS, TEXTS)
def test_the_terminal_chat_asks_with_the_prompt_of_v1(home, role, talk, question):
    engine = Recording()
    app = gateway(home, engine)
    engine.says = [said.luna for said in talk]
    lines = iter([*(said.user for said in talk), question, "/quit"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jobs.chat, "events", lambda _, path, body: events_of(post(app, path, body).text))
        jobs.chat.chat(home, role or "base", 10, Console(file=io.StringIO()), lambda: next(lines))
    assert engine.prompts[-1] == through_v1(messages_of(talk, "", question), role)[0]


@given(TALKS, TEXTS, st.tuples(TEXTS, TEXTS, TEXTS))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_voices_of_a_dialogue_are_trained_with_the_prompts_that_they_were_asked_with(home, talk, question, answers):
    """Each voice hears the talk, then those before it; whatever is left out, it is the oldest exchanges."""
    engine = Recording()
    app = gateway(home, engine)
    engine.says = [said.luna for said in talk] + list(answers)
    conversation = {}
    for said in talk:
        found = post(app, "/generate", {"message": said.user, "role": "base", **conversation}).json()
        conversation = {"conversation": found["conversation"]}
    seen = list(events_of(post(app, "/dialogue", {"message": question, **conversation}).text))
    turns = [data for name, data in seen if name == "turn"]
    asked = engine.prompts[-3:]
    for turn, prompt, before in zip(turns, asked, range(3), strict=True):
        context = [render_talk(talk)] if talk else []
        if before:
            context.append(dialogue_context(*answers[:before]))
        assert turn["context"] == "\n".join(context)
        record = {"input": turn["message"], "output": "So.", "context": turn["context"]}
        (example,) = imported(record, turn["role"])
        assert trained_prompts(example)[1] == {prompt}


def test_a_stored_context_keeps_what_is_not_read_any_more(home):
    """A later generation may have more room."""
    engine = Recording()
    app = gateway(home, engine)
    conversation, dropped = {}, []
    for number in range(12):
        answer = post(
            app, "/generate", {"message": f"Number {number}. " + "More. " * 20, "role": "logical", **conversation}
        )
        conversation = {"conversation": answer.json()["conversation"]}
        dropped.append(int(answer.headers["x-luna-context-dropped"]))
    context = answer.json()["context"]
    assert [f"Number {number}." in context for number in range(11)] == [True] * 11
    assert dropped == sorted(dropped)
    assert dropped[-1] == 11 - sum(f"Number {number}." in engine.prompts[-1] for number in range(11)) > 5


def test_the_terminal_chat_says_when_more_is_not_read_any_more(home):
    app = gateway(home, Recording())
    shown = Console(file=io.StringIO(), width=200)
    lines = iter(["word " * 20] * 8 + ["/new", "Short.", "word " * 100, "/quit"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jobs.chat, "events", lambda _, path, body: events_of(post(app, path, body).text))
        jobs.chat.chat(home[0], "base", 10, shown, lambda: next(lines))
    said = shown.file.getvalue()
    counts = [int(number) for number in re.findall(r"the (\d+) oldest exchanges are no longer read", said)]
    assert counts == sorted(set(counts))
    assert counts[-1] > 2
    assert said.count("the oldest exchange is no longer read") == 2
    assert said.count("its middle is not read") == 1


def test_a_talk_goes_on_from_a_dialogue_that_was_stopped_at_its_first_voice(home):
    class Dying(Recording):
        async def speak(self, model, question, sampling):
            yield Started("creative", 0, "a" * 64, "main", 0, False)
            yield Piece("Because of the", 1, 9)
            raise Refused(503, "the engine is gone.")

    seen = list(events_of(post(gateway(home, Dying()), "/dialogue", {"message": "Why is it blue?"}).text))
    assert [name for name, _ in seen] == ["start", "token", "error"]
    engine, body = Recording(), {"message": "And?", "role": "base", "conversation": seen[0][1]["conversation"]}
    post(gateway(home, engine), "/generate", body)
    assert engine.prompts == ["User: Why is it blue?\nLuna: Because of the\n\nAnd?"]


def test_a_label_in_the_terminal_keeps_what_the_page_said_of_the_answer(home):
    app = gateway(home, Recording())

    def lines():
        yield "Hello."
        [turn] = home[1].conversations.turns(home[1].conversations.latest()[0].conversation)
        post(app, "/feedback", {"turn": turn.id, "correction": "Good morning."})
        yield "/+1"
        yield "/arousal high"
        yield "/quit"

    def answered(_, method, path, shape, body=None):
        return shape.validate_json((post(app, path, body) if method == "POST" else fetch(app, path)).content)

    said = lines()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jobs.chat, "events", lambda _, path, body: events_of(post(app, path, body).text))
        patched.setattr(jobs.chat, "answered", answered)
        jobs.chat.chat(home[0], "base", 10, Console(file=io.StringIO()), lambda: next(said))
    [turn] = home[1].conversations.turns(home[1].conversations.latest()[0].conversation)
    assert (turn.label.correction, turn.label.valence, turn.label.arousal) == ("Good morning.", 1, "high")


def test_a_streams_first_event_names_conversation_turn_and_what_is_not_read(home):
    engine = Recording()
    app = gateway(home, engine)
    conversation = {}
    for _ in range(8):
        answer = post(app, "/generate", {"message": "word " * 20, "role": "base", "stream": True, **conversation})
        (start, *_, (name, turn), _) = (
            data if name == "start" else (name, data) for name, data in events_of(answer.text)
        )
        assert name == "turn"
        assert (start["conversation"], start["turn"]) == (turn["conversation"], turn["id"])
        assert str(start["context_dropped"]) == answer.headers["x-luna-context-dropped"]
        conversation = {"conversation": turn["conversation"]}
    assert start["context_dropped"] > 2
    whole = post(app, "/generate", {"message": "word " * 2000, "role": "base", "stream": True, **conversation})
    start = next(events_of(whole.text))[1]
    assert (start["context_dropped"], start["text_cut"]) == (8, True)


def test_more_tokens_than_an_answer_may_have_are_refused_by_both_ways(home):
    app = gateway(home, Recording())
    for path in ("/generate", "/dialogue"):
        answer = post(app, path, {"message": "Why?", "max_tokens": 513})
        assert answer.status_code == 400
        assert "at most 512" in answer.json()["error"]["message"]
    assert post(app, "/generate", {"message": "Why?", "max_tokens": 512}).status_code == 200


def test_an_unknown_conversation_is_refused(home):
    answer = post(gateway(home, Recording()), "/generate", {"message": "Why?", "conversation": uuid.uuid4().hex})
    assert answer.status_code == 404


# -- the messages of /v1 ------------------------------------------------------------------------------------------


USER, LUNA = {"role": "user", "content": "Is 7 even?"}, {"role": "assistant", "content": "No, because"}


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([USER, LUNA], "the last message is of the assistant; end messages with what the user asks"),
        ([USER, {"role": "system", "content": "Answer in Latin."}], "the last message is of the system"),
        ([{"role": "system", "content": "You are terse."}], "the last message is of the system"),
        ([USER, LUNA, {"role": "tool", "content": "4"}], "the last message is of the tool"),
        ([{"role": "user", "content": ""}], "the last message is empty"),
        ([{"role": "user", "content": None}], "only text can be answered"),
        ([{"role": "wizard", "content": "x"}, USER], "message 1 has the role 'wizard'"),
        ([USER, {"role": "user", "content": [{"type": "image_url"}]}], "only text can be answered"),
        ([USER, "x"], "message 2 needs a role"),
        ([USER, LUNA, {"role": "user", "content": "\ud83d?"}], "message 3 holds half a character"),
    ],
)
def test_messages_that_ask_nothing_are_refused_with_what_to_do(messages, says):
    front = Front(Behind(), lambda: Table(), Leases(), ServingSettings(), READER, "base-weights")
    answer = post(front, "/v1/chat/completions", {"model": "base", "messages": messages})
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_what_a_tool_said_is_no_part_of_the_talk_and_messages_in_a_row_are_one():
    messages = [
        {"role": "user", "content": "What is"}, {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "Four."}, {"role": "user", "content": "Sure?"},
    ]  # fmt: skip
    prompt, headers = through_v1(messages, "logical")
    assert prompt == render_prompt("logical", "Sure?", "User: What is\n2 + 2?\nLuna: Four.")
    assert headers["x-luna-context-dropped"] == "0"


def test_a_message_in_parts_is_the_same_prompt_imported_and_asked():
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "2 + 2? "}]
    messages = [{"role": "user", "content": parts}]
    prompt, _ = through_v1(messages, "logical")
    (example,) = imported({"messages": [*messages, {"role": "assistant", "content": "Four."}]}, "logical")
    assert trained_prompts(example)[1] == {prompt}


def test_a_long_talk_through_v1_goes_on_and_says_how_much_is_not_read():
    messages, dropped = [{"role": "system", "content": "You are terse."}], []
    for number in range(60):
        messages.append({"role": "user", "content": f"Question {number}. " + "Tell me more. " * 4})
        prompt, headers = through_v1(messages, "dialectical")
        assert "\n\nYou are terse.\n" in prompt
        assert len(prompt) <= LENGTHS.room
        assert f"Question {number}." in prompt
        dropped.append(int(headers["x-luna-context-dropped"]))
        messages.append({"role": "assistant", "content": f"Answer {number}."})
    assert dropped == sorted(dropped)
    assert (dropped[0], dropped[-1]) == (0, 57)


def test_an_answer_through_v1_ends_with_the_room():
    behind = Behind()
    front = Front(behind, lambda: Table(), Leases(), ServingSettings(), READER, "base-weights")
    body = {"model": "base", "max_tokens": 300, "messages": [{"role": "user", "content": "word " * 60}]}
    assert post(front, "/v1/chat/completions", body).status_code == 200
    assert behind.seen[0]["max_tokens"] == LENGTHS.max_tokens - len("word " * 60) + 1
