"""The server for real: Ray Serve, vLLM's CPU build, HTTP, and the clients that people use."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import re
import signal
import threading
import time

import httpx
import psutil
import pytest
from rich.console import Console

from curriculum.render import render_prompt
from curriculum.reward import VALUES
from ledger.errors import LunaError
from ledger.metadata import MODEL_FILE
from ledger.roles import ROLES
from ledger.store import Ledger, Stores
from tests.processes import ray_processes
from tests.serving.builders import PROMPTS, TOKENS, add_adapters, end_coordinator, loud_adapter, site_shapes, whole
from tests.trainers.builders import CPU, LORA, tiny_base
from trainers.config import TrainSettings
from trainers.models.adapter_set import AdapterSet
from trainers.reference.engine import TrlEngine

pytest.importorskip("vllm", reason="vLLM cannot be installed on this platform")
openai = pytest.importorskip("openai", reason="comes with vLLM")

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_each_requester_of_a_mixed_batch_gets_its_own_models_greedy_text(served, expected):
    wanted = {"base": ("base", 2)} | {f"luna-{role}-g{gen}": (role, gen) for role in ROLES for gen in (1, 2)}

    async def all_at_once():
        async with openai.AsyncOpenAI(**served.client) as client:
            asked = [(name, prompt) for prompt in PROMPTS for name in wanted]
            answers = await asyncio.gather(
                *(
                    client.completions.create(model=name, prompt=prompt, max_tokens=TOKENS, temperature=0)
                    for name, prompt in asked
                )
            )
            return {key: whole(answer.choices[0].text) for key, answer in zip(asked, answers, strict=True)}

    for (name, prompt), text in asyncio.run(all_at_once()).items():
        assert text == expected[(*wanted[name], prompt)], name


def test_the_openai_client_lists_streams_and_chats(served, expected):
    client = openai.OpenAI(**served.client)
    names = {model.id for model in client.models.list()}
    assert {"base", *(f"luna-{role}" for role in ROLES), "luna-creative-g1"} <= names
    assert all("base-weights" not in name for name in names)
    stream = client.completions.create(
        model="luna-logical", prompt=PROMPTS[0], max_tokens=TOKENS, temperature=0, stream=True
    )
    assert whole("".join(part.choices[0].text for part in stream)) == expected["logical", 2, PROMPTS[0]]
    chat = client.chat.completions.create(
        model="luna-creative", messages=[{"role": "user", "content": "Hi."}], max_tokens=TOKENS, temperature=0
    )
    assert whole(chat.choices[0].message.content) == served.text("luna-creative", render_prompt("creative", "Hi."))


def test_a_swap_and_a_rollback_change_every_role_and_say_so_in_the_headers(served, expected):
    assert served.text("luna-logical") == expected["logical", 2, PROMPTS[0]]
    before = served.complete("luna-logical").headers
    served.deploy(1)
    for role in ROLES:
        assert served.text(f"luna-{role}") == expected[role, 1, PROMPTS[0]]
    after = served.complete("luna-logical").headers
    assert (before["x-luna-generation"], after["x-luna-generation"]) == ("G2", "G1")
    assert int(after["x-luna-table"]) == int(before["x-luna-table"]) + 1
    served.call("switch", 2)
    assert served.text("luna-logical") == expected["logical", 2, PROMPTS[0]]


def test_under_load_and_swaps_no_request_fails_and_every_answer_is_of_one_generation(served, expected):
    """Eight clients, a quarter streaming. Before each swap other names push its target out of its slot."""
    stop, problems, answers = threading.Event(), [], []

    def talk(number):
        with httpx.Client(base_url=served.url, timeout=60) as client:
            for turn in itertools.count():
                if stop.is_set():
                    return
                role, prompt = ROLES[turn % 3], PROMPTS[(turn + number) % 3]
                streams = (turn + number) % 4 == 0
                body = {"model": f"luna-{role}", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
                try:
                    answer = client.post("/v1/completions", json=body | {"stream": streams})
                    text = _streamed(answer.text) if streams else answer.json()["choices"][0]["text"]
                    gen = int(answer.headers["x-luna-generation"].removeprefix("G"))
                    answers.append((role, gen, prompt, whole(text)))
                except Exception as error:
                    problems.append(repr(error))

    clients = [threading.Thread(target=talk, args=(number,)) for number in range(8)]
    for client in clients:
        client.start()
    swaps = 0
    for gen in itertools.islice(itertools.cycle((1, 2)), 6):
        time.sleep(1.5)
        for role in ROLES:
            served.complete(f"luna-{role}-g0")
        served.deploy(gen)
        swaps += 1
        stale = served.complete("luna-logical").headers["x-luna-generation"]
        assert stale == f"G{gen}", "the first request after a swap gets the new generation"
    stop.set()
    for client in clients:
        client.join(60)
    assert problems == []
    assert swaps == 6
    assert len({gen for _, gen, _, _ in answers}) == 2, "both generations answered"
    assert len(answers) > 20
    for role, gen, prompt, text in answers:
        assert text == expected[role, gen, prompt]


def test_the_terminal_chat_streams_keeps_the_thread_and_changes_voices(served):
    from jobs.chat import chat
    from jobs.context import printable

    lines = iter(["Hello.", "/role logical", "Why?", "/role nobody", "/new", "/quit"])
    page = Console(file=io.StringIO(), width=200)
    chat(served.home, "creative", TOKENS, page, lambda: next(lines))
    first = served.text("luna-creative", render_prompt("creative", "Hello."))
    second = served.text("luna-logical", render_prompt("logical", "Why?", f"User: Hello.\nLuna: {first.strip()}"))
    shown = page.file.getvalue()
    assert printable(first) in shown
    assert printable(second) in shown
    assert "no voice 'nobody'" in shown


def test_the_terminal_chat_shows_the_reward_of_the_last_answer(served):
    from jobs.chat import chat

    lines = iter(["/reward", "/role creative", PROMPTS[0], "/reward", "/quit"])
    page = Console(file=io.StringIO(), width=400)
    chat(served.home, "logical", TOKENS, page, lambda: next(lines))
    with Stores.open(served.home) as stores:
        turn = stores.conversations.turns(stores.conversations.latest()[0].conversation)[-1]
    assert "no answer to judge" in page.file.getvalue()
    assert turn.score is not None
    for name in VALUES:
        assert f"{name} {getattr(turn.score, name):+.2f}" in page.file.getvalue()


def test_compare_shows_generations_and_the_base_side_by_side(served):
    from jobs.chat import compare

    page = Console(file=io.StringIO(), width=200)
    compare(served.home, "Why?", ["G0", "G2", "base"], "logical", TOKENS, None, page)
    shown = page.file.getvalue()
    assert all(name in shown.splitlines()[2] for name in ("G0", "G2", "base"))
    assert all(name in shown for name in (*VALUES, "scalar_preference")), "the rewards stand beside the answers"
    for gen in (0, 2):
        words = re.findall("[A-Za-z0-9]+", served.text(f"luna-logical-g{gen}", render_prompt("logical", "Why?")))
        assert all(word in shown for word in words)
    with pytest.raises(LunaError, match="no judged generation G55"):
        compare(served.home, "Why?", ["G55"], "logical", TOKENS, None, page)
    with pytest.raises(LunaError, match="no voice"):
        compare(served.home, "Why?", ["G0"], "nobody", TOKENS, None, page)


def test_a_broken_or_unknown_generation_is_refused_and_what_is_served_stays(served, expected):
    home = served.home
    shapes = site_shapes(home)
    end_coordinator()  # it holds the ledger; the gateway finds its successor
    with Ledger.create(home) as ledger:
        shas = {role: loud_adapter(home, shapes, 90 + i) for i, role in enumerate(ROLES)}
        number = ledger.next_gen_id()
        add_adapters(ledger, number, 2, shas, tiny_base(home).sha)
    weights = home.adapter_dir(shas["dialectical"]) / MODEL_FILE
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    for gen, says in ((number, "was changed"), (77, "no judged generation G77")):
        with pytest.raises(Exception, match=says):
            served.call("load", gen)
        assert served.text("luna-dialectical") == expected["dialectical", 2, PROMPTS[0]]
        assert gen not in served.call("state")["generations"]
    weights.write_bytes(whole)
    assert served.call("load", number)["current"] == 2
    assert served.complete(f"luna-logical-g{number}").status_code == 200
    assert 0 not in served.call("state")["generations"], "the longest unused made room"
    served.call("load", 0)


def test_bad_requests_get_a_reason_and_a_status_that_is_not_500(served):
    assert served.complete("gpt-4").status_code == 404
    assert served.complete("base", max_tokens=10_000).status_code == 400
    assert served.complete("base", prompt="x" * 5000).status_code == 400
    assert served.complete("base", prompt=None).status_code in (400, 422)
    assert httpx.post(f"{served.url}/v1/completions", content=b"{").status_code == 400
    assert httpx.post(f"{served.url}/v1/load_lora_adapter", json={}).status_code == 404


def test_evaluation_through_the_server_scores_like_the_trainers_model(served, expected):
    from cluster.server.candidate_eval import ServedGenerator, _tokenizer
    from cluster.server.client import asker

    base = tiny_base(served.home)
    with Ledger.open(served.home) as ledger:
        shas = {row.role: row.child_sha for row in ledger.generation(1)}
    plain = TrlEngine(base, TrainSettings(dtype="float32", engine="trl"), LORA, CPU)
    in_memory = plain.generator(AdapterSet(served.home.adapters_dir, shas))
    through = ServedGenerator(asker(served.home), _tokenizer(base), 1)
    pairs = [(prompt, answer) for prompt in PROMPTS for answer in ("Yes.", "⊥", "Because it is so.")]
    for voice in ("creative", "logical", "base"):
        answers = through.generate(voice, PROMPTS, TOKENS)
        plainly = in_memory.generate(voice, PROMPTS, TOKENS)
        assert [(whole(one.text), one.ended) for one in answers] == [(whole(one.text), one.ended) for one in plainly]
        assert [whole(answer.text) for answer in answers] == [expected[voice, 1, prompt] for prompt in PROMPTS]
        found, wanted = through.likelihoods(voice, pairs), in_memory.likelihoods(voice, pairs)
        assert [one.mean for one in found] == pytest.approx([one.mean for one in wanted], abs=1e-3)
        assert [one.greedy for one in found] == [one.greedy for one in wanted]


def test_log_probabilities_of_a_prompt_can_be_asked_beside_others(served, expected):
    """vLLM's own CPU build ends its engine over this request."""
    answer = served.complete("luna-logical", prompt_logprobs=1)
    assert answer.status_code == 200, answer.text
    assert whole(answer.json()["choices"][0]["text"]) == expected["logical", 2, PROMPTS[0]]
    assert len(answer.json()["choices"][0]["prompt_logprobs"]) > 5


def test_a_client_that_goes_away_stops_its_generation(served):
    body = {"model": "base", "prompt": "x", "max_tokens": 500, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{served.url}/v1/completions", json=body, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        lines = answer.iter_lines()
        next(lines)
        assert served.call("state")["in_work"] == 1
    deadline = time.monotonic() + 10
    while served.call("state")["in_work"] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert served.call("state")["in_work"] == 0


def test_without_a_key_only_this_machine_is_listened_to(served, monkeypatch):
    from serving import app
    from serving.settings import ServingSettings, SharedSettings

    monkeypatch.delenv("LUNA_API_KEY", raising=False)
    what = "0" * 64, ServingSettings(host="0.0.0.0"), SharedSettings(), app.Places()
    with pytest.raises(LunaError, match="LUNA_API_KEY"):
        app.run(served.home, *what, lambda: None, lambda: None)


def test_what_is_served_is_heard_on_this_machine_only(served):
    """Every Ray worker has gRPC ports of Ray's own; none of them answers HTTP."""
    port = httpx.URL(served.url).port
    listening = {
        (process.pid, one.laddr.ip, one.laddr.port)
        for process in ray_processes(served.ray)
        for one in process.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }
    assert {ip for _, ip, at in listening if at == port} == {"127.0.0.1"}
    (proxy,) = {pid for pid, _, at in listening if at == port}
    serving = {proxy, *(process.pid for process in ray_processes(served.ray) if "Replica:" in process.name())}
    for _, ip, at in {one for one in listening if one[0] in serving and one[2] != port}:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(ip, f"[{ip}]" if ":" in ip else ip)
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://{host}:{at}/healthz", timeout=2)


def test_after_the_engine_is_killed_the_client_gets_an_end_and_the_same_names_come_back(served, expected):
    served.deploy(1)
    replica = psutil.Process(served.call("state")["pid"])
    engines = [child for child in replica.children(recursive=True) if "EngineCore" in " ".join(child.cmdline())]
    assert engines, [child.cmdline() for child in replica.children(recursive=True)]
    body = {"model": "base", "prompt": "x", "max_tokens": 500, "stream": True, "ignore_eos": True}
    started, hung = time.monotonic(), False
    try:
        with httpx.stream("POST", f"{served.url}/v1/completions", json=body, timeout=30) as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            next(lines)
            os.kill(engines[0].pid, signal.SIGKILL)
            list(lines)
    except httpx.ReadTimeout:
        hung = True
    except httpx.HTTPError:
        pass
    assert not hung, "the client was left waiting"
    while time.monotonic() - started < 120:
        try:
            if served.complete("luna-logical").status_code == 200:
                break
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    assert served.text("luna-logical") == expected["logical", 1, PROMPTS[0]]
    assert served.text("luna-logical-g2") == expected["logical", 2, PROMPTS[0]]


def _streamed(text):
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1])


def test_a_scrape_of_the_node_has_what_the_engine_tells(served):
    from serving.metrics import ENGINE
    from tests.cluster.test_metrics import wait_for

    wait_for({f"ray_{measure.name}" for measure in ENGINE})
