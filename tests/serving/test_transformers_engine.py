"""The transformers engine on the tiny base, with real adapters: what it answers, and how it looks over HTTP."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections import Counter
from contextlib import aclosing

import httpx
import pytest
import torch

from curriculum.render import render_prompt
from ledger.errors import LunaError
from ledger.metadata import MODEL_FILE
from ledger.roles import ROLES
from ledger.store import Ledger
from serving.api.front import Front, Leases
from serving.api.openai_app import openai_application
from serving.engine import Engine, Piece, Reader, Sampling
from serving.engines.transformers import TransformersEngine, _Draw, _Spoken
from serving.settings import ServingSettings
from serving.table import Adapter, Table
from tests.serving.builders import make_home
from tests.trainers.builders import CPU, LORA, random_base, tiny_base
from trainers.config import TrainSettings
from trainers.generator import answer_ids, prompt_ids
from trainers.models.adapter_set import AdapterSet
from trainers.models.tiny import byte_tokenizer
from trainers.reference.engine import TrlEngine

pytestmark = pytest.mark.slow

PROMPTS = ("Hello there.", "7 is even?", "What if the sun were blue?")
PAIRS = [("7 is even?", "no"), ("Hello there.", "●⊥ yes, and much longer than that"), ("x", "y"), ("7 is even?", "yes")]
TOKENS = 10
GENS = (0, 1)
SETTINGS = ServingSettings(dtype="float32")


class Reference:
    """Greedy text and likelihoods of every voice from plain PEFT."""

    def __init__(self, home):
        self.engine = TrlEngine(tiny_base(home), TrainSettings(dtype="float32", engine="trl", threads=1), LORA, CPU)
        self.texts, self.scores = {}, {}
        for gen in GENS:
            generator = self.engine.generator(AdapterSet(home.adapters_dir, shas_of(home, gen)))
            for voice in (*ROLES, "base"):
                for prompt, answer in zip(PROMPTS, generator.generate(voice, PROMPTS, TOKENS), strict=True):
                    self.texts[voice, gen, prompt] = answer.text
                self.scores[voice, gen] = generator.likelihoods(voice, PAIRS)


def shas_of(home, gen):
    with Ledger.open(home) as ledger:
        return {row.role: row.child_sha for row in ledger.generation(gen)}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """The threads of so small a model wait for one another longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("hf") / "home", generations=len(GENS))


@pytest.fixture(scope="module")
def reference(home):
    found = Reference(home)
    assert len(set(found.texts.values())) > len(found.texts) // 2, "voices differ"
    return found


@pytest.fixture(scope="module")
def table(home):
    made = Table()
    for gen in GENS:
        made = made.add(gen, shas_of(home, gen)).switch(gen)
    return made


@pytest.fixture(scope="module")
def voices(table):
    """(voice, generation) -> adapter, None for the base."""
    own = {(adapter.role, adapter.gen): adapter for adapter in table.names().values() if adapter}
    return own | {("base", gen): None for gen in GENS}


@pytest.fixture(scope="module")
def behind_front(home, table, voices):
    """The engine with every adapter, and its application behind the front."""
    engine: Engine = TransformersEngine(tiny_base(home).path, SETTINGS, openai_application)

    async def start():
        app = await engine.start()
        engine.list_names(table.names)
        for adapter in filter(None, voices.values()):
            await engine.load(adapter, home.adapter_dir(adapter.sha))
        return app

    app = asyncio.run(start())
    leases = Leases()
    yield engine, Front(app, lambda: table, leases, SETTINGS, Reader(engine.text, engine.count), engine.base_name)
    assert leases.total == 0
    engine.stop()


@pytest.fixture
def engine(behind_front):
    return behind_front[0]


@pytest.fixture
def front(behind_front):
    return behind_front[1]


def name_of(adapter):
    return adapter.name if adapter else "base"


async def pieces_of(engine, name, prompt, tokens=TOKENS, **how):
    async with aclosing(engine.speak(name, prompt, Sampling(tokens, **how))) as pieces:
        return [piece async for piece in pieces]


async def text_of(engine, name, prompt, tokens=TOKENS, **how):
    return "".join(piece.text for piece in await pieces_of(engine, name, prompt, tokens, **how))


# -- the engine ----------------------------------------------------------------------------------------------


def test_every_voice_asked_at_once_streams_its_own_peft_greedy_text(engine, reference, voices):
    async def all_at_once():
        asked = [(voice, gen, prompt) for voice, gen in voices for prompt in PROMPTS]
        answers = [pieces_of(engine, name_of(voices[voice, gen]), prompt) for voice, gen, prompt in asked]
        return dict(zip(asked, await asyncio.gather(*answers), strict=True))

    for asked, pieces in asyncio.run(all_at_once()).items():
        assert "".join(piece.text for piece in pieces) == reference.texts[asked]
        assert [piece.tokens for piece in pieces] == list(range(1, len(pieces) + 1))
        assert {piece.prompt_tokens for piece in pieces} == {len(asked[2])}
        assert [piece.finish for piece in pieces] == [None] * (TOKENS - 1) + ["length"]


def test_scores_are_the_trainers(engine, reference, voices):
    tokenizer = reference.engine.tokenizer
    rows = []
    for prompt, answer in PAIRS:
        given = prompt_ids(tokenizer, prompt)
        rows.append(([*given, *answer_ids(tokenizer, answer)], len(given)))
    many = rows * 20  # more than one batch
    for (voice, gen), adapter in voices.items():
        found = asyncio.run(engine.score(name_of(adapter), many))
        wanted = reference.scores[voice, gen] * 20
        assert [mean for mean, _ in found] == pytest.approx([one.mean for one in wanted], abs=1e-4)
        assert [greedy for _, greedy in found] == [one.greedy for one in wanted]
    assert asyncio.run(engine.score("base", [])) == []


def test_a_character_is_never_split_and_nothing_is_lost(reference):
    tokenizer, said = byte_tokenizer(), list[Piece]()
    text = "a ●→ñ 🙂\n  b. é"
    tokens = tokenizer(text)["input_ids"]
    spoken = _Spoken(tokenizer, 3, len(tokens), said.append)
    for put in ([1, 2, 3], *([token] for token in tokens)):
        spoken.put(torch.tensor(put))
    assert "".join(piece.text for piece in said) == text
    assert [piece.text for piece in said if piece.text] == list(text)
    broken, said[:] = _Spoken(tokenizer, 3, 2, said.append), []
    for put in ([1, 2, 3], *([token] for token in tokenizer("a●")["input_ids"][:2])):
        broken.put(torch.tensor(put))
    assert [(piece.text, piece.finish) for piece in said] == [("a", None), ("\N{REPLACEMENT CHARACTER}", "length")]


def test_an_end_of_text_token_ends_the_answer(home, engine, tmp_path):
    """A copy of the base whose end of text is what it says third."""
    from transformers import AutoTokenizer

    base = shutil.copytree(tiny_base(home).path, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)

    async def with_end():
        other = TransformersEngine(base, SETTINGS, openai_application)
        await other.start()
        logits = other._model(torch.tensor([tokenizer("Hello")["input_ids"]])).logits[0, -1]
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(int(logits.argmax()))
        tokenizer.save_pretrained(base)
        other.stop()
        other = TransformersEngine(base, SETTINGS, openai_application)
        await other.start()
        found = await pieces_of(other, "base", "Hello")
        other.stop()
        return found

    (piece,) = asyncio.run(with_end())
    assert (piece.tokens, piece.finish) == (1, "stop")


def test_seeds_repeat_an_answer_and_leave_the_processs_own_draws_alone(engine):
    before = torch.get_rng_state()
    draws = [asyncio.run(text_of(engine, "base", "x", temperature=2.0, seed=seed)) for seed in (1, 2, 1, None, None)]
    assert draws[0] == draws[2]
    assert len(set(draws)) == 4
    assert torch.equal(torch.get_rng_state(), before)
    cold = asyncio.run(text_of(engine, "base", "x", temperature=1e-3, seed=1))
    assert cold == asyncio.run(text_of(engine, "base", "x"))


def test_draws_are_in_proportion():
    draw = _Draw(Sampling(1, temperature=2.0, seed=3))
    scores = 2 * torch.tensor([[0.1, 0.2, 0.7]]).log()
    found = Counter(int(draw(None, scores).argmax()) for _ in range(4000))
    assert [found[i] / 4000 for i in range(3)] == pytest.approx([0.1, 0.2, 0.7], abs=0.03)


async def seconds_of(engine, tokens):
    started = time.perf_counter()
    await pieces_of(engine, "base", "x", tokens=tokens)
    return time.perf_counter() - started


def test_closing_an_answer_frees_the_engine_at_once(engine):
    async def close_and_ask():
        long = Sampling(1000)
        async with (
            aclosing(engine.speak("base", "x", long)) as first,
            aclosing(engine.speak("base", "y", long)) as next_,
        ):
            await anext(first)
            waiting = asyncio.create_task(anext(next_))
            await asyncio.sleep(0.02)
            waiting.cancel()
            await asyncio.wait([waiting])
        return await seconds_of(engine, tokens=2), await seconds_of(engine, tokens=1000)

    after_it, whole = asyncio.run(close_and_ask())
    assert after_it < whole / 2, "an answer that nobody hears is not finished first"


def test_the_event_loop_goes_on_while_it_generates(engine):
    async def count():
        turns, answer = 0, asyncio.create_task(pieces_of(engine, "base", "x", tokens=50))
        while not answer.done():
            await asyncio.sleep(0.001)
            turns += 1
        return turns

    assert asyncio.run(count()) > 20


@pytest.mark.parametrize(
    ("name", "prompt", "tokens", "says"),
    [
        ("base", "x" * 2000, 100, "2000 tokens and the answer may have 1,.*at most 1024"),
        ("base", "", 1, "empty"),
        ("luna-logical-g9", "x", 1, "no adapter 'luna-logical-g9'"),
    ],
)
def test_what_cannot_be_answered_says_why(engine, name, prompt, tokens, says):
    with pytest.raises(LunaError, match=says):
        asyncio.run(pieces_of(engine, name, prompt, tokens))
    if name != "base":
        with pytest.raises(LunaError, match=says):
            asyncio.run(engine.score(name, [([1, 2], 1)]))


@pytest.mark.parametrize("row", [([1, 2], 2), ([1, 2], 0), ([1] * 2000, 5)])
def test_rows_that_have_no_score_are_refused(engine, row):
    with pytest.raises(LunaError):
        asyncio.run(engine.score("base", [row]))


def test_an_unloaded_adapter_is_gone_and_answers_again_when_loaded(home, reference, voices):
    async def in_turn():
        engine = TransformersEngine(tiny_base(home).path, SETTINGS, openai_application)
        with pytest.raises(LunaError, match="not running"):
            await engine.check_health()
        await engine.start()
        await engine.check_health()
        size = held(engine)
        first, second = voices["creative", 0], voices["logical", 1]
        for _ in range(2):
            for adapter in (first, second, second):
                await engine.load(adapter, home.adapter_dir(adapter.sha))
            assert held(engine) > size
            for adapter, kept in ((first, second), (second, None)):
                assert (
                    await text_of(engine, adapter.name, PROMPTS[0])
                    == reference.texts[adapter.role, adapter.gen, PROMPTS[0]]
                )
                await engine.unload(adapter)
                await engine.unload(adapter)
                with pytest.raises(LunaError, match="no adapter"):
                    await text_of(engine, adapter.name, PROMPTS[0])
                if kept:
                    wanted = reference.texts[kept.role, kept.gen, PROMPTS[0]]
                    assert await text_of(engine, kept.name, PROMPTS[0]) == wanted
                assert await text_of(engine, "base", PROMPTS[0]) == reference.texts["base", 0, PROMPTS[0]]
            assert held(engine) == size
        engine.stop()
        with pytest.raises(LunaError, match="not running"):
            await text_of(engine, "base", "x")

    asyncio.run(in_turn())


def held(engine):
    return sum(parameter.numel() for parameter in engine._model.parameters())


def test_an_adapter_that_cannot_be_loaded_leaves_nothing_behind(home, reference, voices, tmp_path):
    good = voices["logical", 1]
    folders = {name: shutil.copytree(home.adapter_dir(good.sha), tmp_path / name) for name in ("pickle", "cut")}
    (folders["pickle"] / MODEL_FILE).rename(folders["pickle"] / "adapter_model.bin")
    (folders["cut"] / MODEL_FILE).write_bytes((folders["cut"] / MODEL_FILE).read_bytes()[:-8])
    bad = Adapter(gen=7, role="logical", sha="7" * 64)

    async def in_turn():
        small = TransformersEngine(random_base(tmp_path / "base", "llama").path, SETTINGS, openai_application)
        await small.start()
        with pytest.raises(LunaError, match="PEFT did not load"):
            await small.load(good, home.adapter_dir(good.sha))
        assert await text_of(small, "base", "x")
        small.stop()
        engine = TransformersEngine(tiny_base(home).path, SETTINGS, openai_application)
        await engine.start()
        for folder, says in (("pickle", f"has no {MODEL_FILE}"), ("cut", "PEFT did not load")):
            with pytest.raises(LunaError, match=says):
                await engine.load(bad, folders[folder])
            await engine.load(good, home.adapter_dir(good.sha))
            assert await text_of(engine, good.name, PROMPTS[0]) == reference.texts["logical", 1, PROMPTS[0]]
        engine.stop()

    asyncio.run(in_turn())


def test_stopping_ends_the_answer_in_work_and_those_that_wait(home):
    async def stopped():
        engine = TransformersEngine(tiny_base(home).path, SETTINGS, openai_application)
        await engine.start()
        answers = [asyncio.create_task(pieces_of(engine, "base", "x", 1000)) for _ in range(2)]
        await asyncio.sleep(0.1)
        engine.stop()
        return await asyncio.gather(*answers, return_exceptions=True)

    assert ["was stopped" in str(error) for error in asyncio.run(stopped())] == [True, True]


# -- over HTTP -----------------------------------------------------------------------------------------------


def ask(front, path="/v1/completions", method="POST", **body):
    async def once():
        transport = httpx.ASGITransport(app=front)
        async with httpx.AsyncClient(transport=transport, base_url="http://luna", timeout=60) as client:
            return await client.request(method, path, json=body or None)

    return asyncio.run(once())


def events_of(answer):
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_a_completion_has_text_usage_and_the_reason_of_its_end(front, reference):
    answer = ask(front, model="luna-creative", prompt=PROMPTS[0], max_tokens=TOKENS, temperature=0)
    body = answer.json()
    assert answer.headers["x-luna-generation"] == "G1"
    assert body["object"] == "text_completion"
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"]) == (reference.texts["creative", 1, PROMPTS[0]], "length")
    assert body["usage"] == {"prompt_tokens": 12, "completion_tokens": TOKENS, "total_tokens": 12 + TOKENS}
    assert ask(front, model="base", prompt="x").json()["usage"]["completion_tokens"] <= 16


def test_a_chat_answers_the_rendered_prompt(front, engine, voices):
    messages = [{"role": "user", "content": "Why?"}]
    body = {"model": "luna-logical", "messages": messages, "max_tokens": TOKENS, "temperature": 0}
    whole = ask(front, "/v1/chat/completions", **body).json()
    wanted = asyncio.run(text_of(engine, voices["logical", 1].name, render_prompt("logical", "Why?")))
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": wanted}
    streamed = events_of(ask(front, "/v1/chat/completions", **body, stream=True))
    assert streamed[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in streamed) == wanted
    assert streamed[-1]["choices"][0]["finish_reason"] == "length"
    without = {name: value for name, value in body.items() if name != "max_tokens"}
    room = ask(front, "/v1/chat/completions", **without, max_completion_tokens=3).json()
    assert room["usage"]["completion_tokens"] == 3


def test_a_stream_gives_usage_where_it_is_asked_for(front, reference):
    body = {"model": "luna-logical-g0", "prompt": PROMPTS[1], "max_tokens": TOKENS, "temperature": 0, "stream": True}
    answer = ask(front, **body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    plain = events_of(answer)
    assert "".join(event["choices"][0]["text"] for event in plain) == reference.texts["logical", 0, PROMPTS[1]]
    assert all("usage" not in event for event in plain)
    *parts, last = events_of(ask(front, **body, stream_options={"include_usage": True}))
    assert {event["usage"] for event in parts} == {None}
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], TOKENS)


def test_the_model_list_is_the_tables(front, engine, table):
    cards = ask(front, "/v1/models", "GET").json()["data"]
    assert {card["id"]: card["root"] for card in cards} == {
        name: adapter.sha if adapter else "base" for name, adapter in table.names().items()
    }
    assert {card["max_model_len"] for card in cards} == {engine.text.max_tokens}


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"n": 2}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 0}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"stop": ["."]}, "stop"),
        ({"top_p": 0.9}, "top_p"),
        ({"frequency_penalty": 0.5, "presence_penalty": -1}, "frequency_penalty, presence_penalty"),
        ({"tools": [{}]}, "tools"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"anything": 1}, "anything"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"stream_options": {"other": True}}, "stream_options.other"),
        ({"prompt": "x" * 1020}, "at most 1024"),
    ],
)
def test_what_it_cannot_honour_is_refused_by_name(front, more, names):
    answer = ask(front, **{"model": "base", "prompt": "x", "max_tokens": 5, **more})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert names in error["message"]


def test_parameters_that_ask_for_nothing_are_no_reason_to_refuse(front):
    nothing = {"n": 1, "echo": False, "presence_penalty": 0.0, "top_p": 1, "stop": None, "user": "me", "suffix": None}
    assert ask(front, model="base", prompt="x", max_tokens=2, **nothing).status_code == 200


def test_an_adapter_that_the_engine_lost_is_a_404_in_openais_form(behind_front):
    _, front = behind_front
    answer = ask(front.inner, model="luna-logical-g9-000000000000", prompt="x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, 404)
    assert ask(front.inner, "/v1/nothing", "GET").json()["error"]["message"] == "Not Found"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_stops_its_answer(behind_front, stream):
    engine, front = behind_front
    body = json.dumps({"model": "base", "prompt": "x", "max_tokens": 500, "stream": stream}).encode()

    async def leave():
        heard = asyncio.Event()
        given = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if given:
                return given.pop()
            if stream:
                await heard.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.body":
                heard.set()

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers, "query_string": b""}
        await front(scope, receive, send)
        return await seconds_of(engine, tokens=2), await seconds_of(engine, tokens=500)

    after_it, whole = asyncio.run(leave())
    assert after_it < whole / 2, "an answer that nobody hears is not finished first"
    assert front.leases.total == 0


def test_the_openai_client_completes_streams_and_chats(front, reference):
    openai = pytest.importorskip("openai", reason="comes with vLLM")

    async def talk():
        transport = httpx.ASGITransport(app=front)
        async with openai.AsyncOpenAI(
            base_url="http://luna/v1", api_key="none", http_client=httpx.AsyncClient(transport=transport)
        ) as client:
            how = {"max_tokens": TOKENS, "temperature": 0}
            listed = {model.id async for model in client.models.list()}
            whole = await client.completions.create(model="luna-creative", prompt=PROMPTS[0], **how)
            chat = {"model": "luna-creative", "messages": [{"role": "user", "content": "Hi."}], **how}
            said = await client.chat.completions.create(**chat)
            parts = [part async for part in await client.chat.completions.create(**chat, stream=True)]
            with pytest.raises(openai.BadRequestError, match="logprobs"):
                await client.completions.create(model="base", prompt="x", logprobs=1)
            return listed, whole.choices[0].text, said.choices[0].message.content, parts

    listed, text, said, parts = asyncio.run(talk())
    assert {"base", *(f"luna-{role}" for role in ROLES)} <= listed
    assert text == reference.texts["creative", 1, PROMPTS[0]]
    assert "".join(part.choices[0].delta.content or "" for part in parts) == said
