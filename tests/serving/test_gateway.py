"""The gateway for real: conversations, labels and the lineage over HTTP."""

from __future__ import annotations

import json
import time
from collections import Counter

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import data

from curriculum.render import dialogue_context, render_prompt
from curriculum.reward import gate
from ledger.roles import ROLES
from ledger.store import Ledger, Stores
from tests.serving.builders import TOKENS, whole
from tests.trainers.builders import HARSH, KIND
from trainers.reward.model import current_model, load_reward_model

pytest.importorskip("vllm", reason="vLLM cannot be installed on this platform")
schemathesis = pytest.importorskip("schemathesis")

pytestmark = [pytest.mark.ray, pytest.mark.slow]

GREEDY = {"temperature": 0, "max_tokens": TOKENS}


@pytest.fixture
def http(served):
    with httpx.Client(base_url=served.url, timeout=60) as client:
        yield client


def events(text):
    """[(name, data), ...] of a finished stream."""
    frames = [frame.split("\n") for frame in text.strip().split("\n\n")]
    assert all(len(lines) == 2 for lines in frames), "one event line and one data line each"
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in frames]


def stored(served, turn):
    with Stores.open(served.home) as stores:
        return next(one for one in stores.conversations.turns(turn["conversation"]) if one.id == turn["id"])


def scored(served, turn):
    """The stored turn once it has its score."""
    deadline = time.monotonic() + 30
    while (found := stored(served, turn)).score is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def test_an_answer_is_the_roles_own_greedy_text_and_is_stored_as_given(served, http):
    answer = http.post("/generate", json={"message": "Hello.", "role": "logical", **GREEDY})
    assert answer.status_code == 200, answer.text
    turn = answer.json()
    assert whole(turn["answer"]) == served.text("luna-logical", render_prompt("logical", "Hello."))
    assert (turn["generation"], answer.headers["x-luna-generation"]) == (2, "G2")
    assert answer.headers["x-luna-adapter-sha"] == turn["adapter_sha"]
    assert (turn["answer_tokens"], turn["finish_reason"]) == (TOKENS, "length")
    assert turn["prompt_tokens"] > 0
    assert turn["seconds"] > 0
    later = {"score": None, "karma": None}
    assert stored(served, turn).model_dump(mode="json") | later == turn


def test_a_stream_says_who_answers_then_the_text_and_the_stored_turn_last(served, http):
    whole_answer = http.post("/generate", json={"message": "Why?", **GREEDY}).json()["answer"]
    answer = http.post("/generate", json={"message": "Why?", "stream": True, **GREEDY})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-luna-generation"] == "G2"
    seen = events(answer.text)
    assert [name for name, _ in seen[:2]] == ["start", "token"]
    assert [name for name, _ in seen[-2:]] == ["turn", "end"]
    turn = seen[-2][1]
    assert "".join(data["text"] for name, data in seen if name == "token") == turn["answer"] == whole_answer
    assert stored(served, turn).answer == turn["answer"]


def test_a_dialogue_hands_each_voice_what_was_said_before(served, http):
    seen = events(http.post("/dialogue", json={"message": "What is a number?", **GREEDY}).text)
    turns = [data for name, data in seen if name == "turn"]
    assert [turn["role"] for turn in turns] == list(ROLES)
    assert [data["role"] for name, data in seen if name == "start"] == list(ROLES)
    thesis, antithesis, synthesis = (turn["answer"] for turn in turns)
    assert turns[1]["context"] == dialogue_context(thesis)
    assert turns[2]["context"] == dialogue_context(thesis, antithesis)
    prompt = render_prompt("dialectical", "What is a number?", dialogue_context(thesis, antithesis))
    assert whole(synthesis) == served.text("luna-dialectical", prompt)
    assert len({turn["conversation"] for turn in turns}) == 1
    assert all(stored(served, turn) for turn in turns)


def test_a_conversation_goes_on_from_what_was_said_and_can_be_read_again(served, http):
    first = http.post("/generate", json={"message": "One.", "role": "creative", **GREEDY}).json()
    more = {"message": "Two.", "role": "logical", "conversation": first["conversation"], **GREEDY}
    second = http.post("/generate", json=more).json()
    assert second["context"] == f"User: One.\nLuna: {first['answer'].strip()}"
    shown = http.get(f"/conversations/{first['conversation']}").json()
    assert [turn["id"] for turn in shown] == [first["id"], second["id"]]
    heading = http.get("/conversations").json()[0]
    assert (heading["conversation"], heading["turns"], heading["title"]) == (first["conversation"], 2, "One.")


def test_labels_and_corrections_are_kept_with_the_answer_they_are_about(served, http):
    turn = http.post("/generate", json={"message": "Hi.", **GREEDY}).json()
    said = {"turn": turn["id"], "valence": -1, "arousal": "high", "broadcast": "low", "correction": "<b>Hello.</b>"}
    answer = http.post("/feedback", json=said)
    assert answer.status_code == 200, answer.text
    (shown,) = http.get(f"/conversations/{turn['conversation']}").json()
    assert shown["label"] == answer.json()["label"]
    assert {**shown["label"], "turn": turn["id"]} == {
        **said, "discrepancy": None, "prospect": None, "reflection": None, "at": shown["label"]["at"],
    }  # fmt: skip
    http.post("/feedback", json={"turn": turn["id"]})
    assert http.get(f"/conversations/{turn['conversation']}").json()[0]["label"] is None


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/feedback", {"turn": "a" * 32, "valence": 1}, 404, "no answer"),
        ("/feedback", {"turn": "../etc", "valence": 1}, 422, "turn"),
        ("/feedback", {"turn": "a" * 32, "valence": 3}, 422, "valence"),
        ("/generate", {"message": ""}, 422, "message"),
        ("/generate", {"message": "x", "role": "nobody"}, 422, "role"),
        ("/generate", {"message": "x", "generation": 77}, 404, "luna-dialectical-g77"),
        ("/generate", {"message": "x", "conversation": "b" * 32}, 404, "no conversation"),
        ("/generate", {"message": "x", "max_tokens": 5000}, 400, "at most 512"),
        ("/generate", {"message": "x", "path": "/etc/passwd"}, 422, "path"),
        ("/dialogue", {"message": "x", "temperature": 9}, 422, "temperature"),
        ("/reward", {"prompt": "x", "response": ""}, 422, "response"),
        ("/reward", [], 422, "at least 1"),
        ("/reward", [{"prompt": "x", "response": "y"}] * 129, 422, "at most 128"),
        ("/reward", {"prompt": "x", "response": "y" * 3_000_000}, 413, "KiB"),
        ("/nowhere", {}, 404, "/nowhere"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_reason(http, path, body, status, says):
    answer = http.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]["message"]


def test_text_that_is_no_unicode_is_refused_and_does_not_break_the_refusal(http):
    answer = http.post("/generate", content=b'{"message": "\\ud800"}', headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert "message" in answer.json()["error"]["message"]


def test_the_lineage_shows_every_generation_with_its_roles(served, http):
    shown = http.get("/lineage").json()
    with Ledger.open(served.home) as ledger:
        head, age = ledger.head(), ledger.age()
    assert (shown["head"], shown["age"]["number"], shown["served"]["current"]) == (head, age, 2)
    by_number = {generation["generation"]: generation for generation in shown["generations"]}
    assert by_number[1]["parent"] == 0
    assert [role["role"] for role in by_number[2]["roles"]] == list(ROLES)
    with Ledger.open(served.home) as ledger:
        recorded = {row.role: row.child_sha for row in ledger.generation(2)}
    assert {role["role"]: role["adapter_sha"] for role in by_number[2]["roles"]} == recorded
    gone = http.get("/lineage/2/loss")
    assert gone.status_code == 404, "builders train nothing, so there is no run folder"
    assert "run" in gone.json()["error"]["message"]


def test_an_answer_or_a_list_of_them_is_scored_as_the_model_itself_does(served, http):
    folder = current_model(served.home)
    pairs = [{"prompt": "Why?", "response": text} for text in (KIND[0], HARSH[0], KIND[1], HARSH[1])]
    wanted = load_reward_model(folder).score(["Why?"] * 4, [pair["response"] for pair in pairs])
    many = http.post("/reward", json=pairs)
    assert many.status_code == 200, many.text
    assert {one["model"] for one in many.json()} == {folder.name}
    for found, reward in zip(many.json(), wanted, strict=True):
        assert found["reward"] == pytest.approx(reward.model_dump(), abs=1e-4)
        assert found["gate"] == pytest.approx(gate(reward.safety_score), abs=1e-4)
        assert found["example_weight"] == pytest.approx(found["reward"]["reward_intensity"] * found["gate"])
    assert http.post("/reward", json=pairs[0]).json()["reward"] == pytest.approx(many.json()[0]["reward"], abs=1e-4)


def test_every_answer_is_scored_after_it_was_given_and_earns_karma(served, http):
    before = http.get("/lineage").json()
    assert before["reward_model"] == current_model(served.home).name
    seen = events(http.post("/dialogue", json={"message": "What is kind?", **GREEDY}).text)
    turns = [scored(served, data) for name, data in seen if name == "turn" and data["answer"].strip()]
    assert turns
    for turn in turns:
        reward = http.post("/reward", json={"prompt": turn.message, "response": turn.answer}).json()
        assert turn.score.model == reward["model"]
        assert turn.score.scalar_preference == pytest.approx(reward["reward"]["scalar_preference"], abs=1e-4)
        assert turn.karma < turn.score.scalar_preference, "tokens and time cost something"
    liked = turns[0]
    http.post("/feedback", json={"turn": liked.id, "valence": 2})
    assert stored(served, liked.model_dump()).karma > liked.karma
    shown = http.get(f"/conversations/{liked.conversation}").json()[0]
    assert shown["score"]["model"] == liked.score.model
    metrics = http.get("/metrics").text
    assert _value(metrics, 'luna_scores_total{outcome="stored"}') >= len(turns)
    with Stores.open(served.home) as stores:
        earned = stores.conversations.karma_earned("main")
    assert http.get("/lineage").json()["karma"]["earned"] == pytest.approx(earned, abs=5)


def test_health_and_metrics_tell_what_happened(http):
    before = http.get("/metrics").text
    http.post("/generate", json={"message": "Count me.", "role": "creative", **GREEDY})
    after = http.get("/metrics").text
    name = 'luna_answers_total{finish="length",generation="G2",kind="generate",role="creative"}'
    assert _value(after, name) == _value(before, name) + 1
    assert "vllm:" in after, "the engine's own measurements are there too"
    health = http.get("/healthz")
    assert (health.status_code, health.json()["status"], health.json()["engine"]["current"]) == (200, "ok", 2)


def test_a_user_who_goes_away_stops_the_work_and_what_was_said_is_kept(served, http):
    # Random weights may end an answer at any word, so that nothing is left to stop; another is asked then.
    turns = [left_alone(served, http, seed) for seed in range(20)]
    stopped = [turn for turn in turns if turn["finish_reason"] == "aborted"]
    assert stopped, [turn["finish_reason"] for turn in turns]
    assert all(0 < turn["answer_tokens"] < 500 for turn in stopped)
    assert served.call("state")["in_work"] == 0


def left_alone(served, http, seed):
    """The stored turn of a user who went away at the first word."""
    body = {"message": f"Go on and on, {seed}.", "role": "base", "max_tokens": 500, "stream": True, "seed": seed}
    with http.stream("POST", "/generate", json=body) as answer:
        lines = answer.iter_lines()
        assert "start" in next(lines)
        for line in lines:
            if line in ("event: token", "event: turn"):
                break
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        last = http.get("/conversations").json()[0]
        newest = http.get(f"/conversations/{last['conversation']}").json()[-1]
        if newest["message"] == body["message"] and not served.call("state")["in_work"]:
            return newest
        time.sleep(0.1)
    raise AssertionError("what was said was not stored, or the work goes on")


def test_another_generation_can_be_asked_by_number_and_a_swap_moves_the_default(served, http):
    old = http.post("/generate", json={"message": "Hi.", "role": "logical", "generation": 1, **GREEDY}).json()
    assert old["generation"] == 1
    served.deploy(1)
    now = http.post("/generate", json={"message": "Hi.", "role": "logical", **GREEDY}).json()
    assert (now["generation"], now["answer"]) == (1, old["answer"])


@pytest.mark.parametrize("path", ["/generate", "/dialogue", "/feedback", "/reward"])
def test_nothing_that_can_be_sent_makes_the_server_fail(served, path):
    """Schemathesis makes requests from the OpenAPI document, right and wrong ones."""
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json").include(path=path, method="POST")
    schema.config.generation.update(modes=list(schemathesis.GenerationMode))
    statuses, failures = Counter(), []

    @settings(max_examples=30, suppress_health_check=list(HealthCheck))
    @given(data())
    def send(drawn):
        for operation in schema.get_all_operations():
            case = drawn.draw(operation.ok().as_strategy())
            # A long answer finds no more than a short one.
            if isinstance(case.body, dict) and isinstance(case.body.get("max_tokens"), int):
                case.body["max_tokens"] = min(case.body["max_tokens"], 2)
            response = case.call(timeout=60)
            statuses[response.status_code] += 1
            if response.status_code >= 500:
                failures.append((case.body, response.status_code, response.text))

    send()
    assert failures == []
    assert len(statuses) > (path != "/reward"), f"requests of more than one kind were made: {statuses}"


def _value(text, name):
    return next((float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + " ")), 0.0)
