"""The forms in which a judge answers and an endpoint complains: each gives a label or a reason."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum.reward import VALUES
from curriculum.teacher.answers import LabelRefused, answer_text, error_told, parse_answer, status_of
from curriculum.teacher.asking import Dialect, adapted

CHECK = "abcd1234"
GOOD = {"rationale": "Fine.", **dict.fromkeys(VALUES, 0.5), "scalar_preference": 0.5, "check": CHECK}
TEXT = json.dumps(GOOD)

TAKEN = {
    "plain": TEXT,
    "fence": f"```json\n{TEXT}\n```",
    "fence without a language": f"```\n{TEXT}\n```",
    "fence in capitals": f"```JSON\n{TEXT}\n```",
    "fence, json5": f"```json5\n{TEXT}\n```",
    "fence on one line": f"```json {TEXT} ```",
    "fence with CRLF": f"```json\r\n{TEXT}\r\n```\r\n",
    "fence of tildes": f"~~~json\n{TEXT}\n~~~",
    "a byte order mark": "\ufeff" + TEXT,
    "thought": f"<think>hm {{not this}}</think>\n{TEXT}",
    "thought and fence": f"<think>hm</think>\n```json\n{TEXT}\n```",
    "thought without its opening": f"hm [1] {{draft}}\n</think>\n{TEXT}",
    "<thinking>": f"<thinking>hm</thinking>\n{TEXT}",
    "capitals": f"<THINK>hm</THINK>\n{TEXT}",
    "an empty thought": f"<think>\n\n</think>\n\n{TEXT}",
    "two thoughts": f"<think>a</think>\n<think>b</think>\n{TEXT}",
    "a sentence before": f"Here is the label:\n{TEXT}",
    "a sentence after": f"{TEXT}\nI hope this helps.",
    "a tag in the rationale": json.dumps({**GOOD, "rationale": "It writes </think> as text."}),
}
REFUSED = {
    "numbers as text": json.dumps({**GOOD, "empathy": "0.5"}),
    "scale of ten": json.dumps({**GOOD, "empathy": 7}),
    "NaN": TEXT.replace('"empathy": 0.5', '"empathy": NaN'),
    "infinite": TEXT.replace('"empathy": 0.5', '"empathy": 1e999'),
    "a refusal": "I cannot judge that.",
    "two objects": f"{TEXT}\n{TEXT}",
    "a list of one": f"[{TEXT}]",
    "5000 digits": TEXT.replace('"empathy": 0.5', '"empathy": ' + "1" * 5000),
    "4000 digits": TEXT.replace('"empathy": 0.5', '"empathy": ' + "1" * 4000),
    "half a character": TEXT.replace("Fine.", "\\ud83c"),
    "a key of half a character": TEXT.replace("empathy", "\\ud83c"),
    "true": json.dumps({**GOOD, "empathy": True}),
    "null": json.dumps({**GOOD, "empathy": None}),
    "wrapped": json.dumps({"label": GOOD}),
    "a thought without an end": f"<think>I would say {TEXT}",
    "only a draft in the thought": f"<think>{TEXT}</think> I cannot judge that.",
    "only a draft, the tag lost": f"hm {TEXT}</think> I cannot judge that.",
    "deep": '{"a":' * 5000,
    "nothing": "",
    "huge": "x" * 30_000,
}


@pytest.mark.parametrize("form", sorted(TAKEN))
def test_a_label_in_any_wrapping_is_taken(form):
    judged = parse_answer(TAKEN[form], CHECK)
    assert set(judged.reward.values()) == {0.5}


@pytest.mark.parametrize("form", sorted(REFUSED))
def test_what_is_no_label_is_refused_with_a_reason(form):
    with pytest.raises(LabelRefused, match=r"\w"):
        parse_answer(REFUSED[form], CHECK)


@given(st.text())
def test_any_text_is_a_label_or_refused(text):
    for answer in (text, f"{text}{TEXT}", f"{TEXT}{text}"):
        with contextlib.suppress(LabelRefused):
            assert parse_answer(answer, CHECK).rationale


def reply(content, finish="stop", **message):
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": finish}]}


PARTS = [{"type": "thinking", "thinking": [{"text": "hm"}]}, {"type": "text", "text": "yes"}, {"type": "image_url"}]


@pytest.mark.parametrize(
    ("found", "text"),
    [(reply("yes"), "yes"), (reply(PARTS), "yes"), (reply(["y", "es"]), "yes"),
     (reply([{"type": "output_text", "text": "yes"}]), "yes"), (reply("yes", finish=None), "yes"),
     (reply("yes", finish=["odd"]), "yes")],
)  # fmt: skip
def test_the_text_of_a_reply_is_found(found, text):
    assert answer_text(found) == (text, "stop")


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, "not JSON"), (7, "choices"), ([], "choices"), ({}, "choices"), ({"choices": []}, "choices"),
        ({"choices": None}, "choices"), ({"choices": [None]}, "choices"), ({"choices": [{"message": None}]}, "choices"),
        ({"choices": {"0": 1}}, "choices"), (reply(None), "empty"), (reply("  \n"), "empty"), (reply(7), "empty"),
        (reply({"text": "yes"}), "empty"), (reply([None, {"type": "text", "text": 7}]), "empty"),
        (reply(None, refusal="I can't."), "the model refused"), (reply(None, tool_calls=[{}]), "called a tool"),
        (reply("", "content_filter"), "content filter"), (reply("", reasoning_content="hm"), "only thought"),
        (reply(None, "length", reasoning="hm"), "raise .teacher. label_tokens"), (reply("a\ud800"), "half a character"),
    ],
)  # fmt: skip
def test_a_reply_without_an_answer_says_what_stands_there_instead(found, reason):
    with pytest.raises(LabelRefused, match=reason):
        answer_text(found)


@pytest.mark.parametrize(
    ("found", "body", "told"),
    [
        ({"error": {"message": "no such model", "code": 1}}, "", "no such model"),
        ({"error": "busy"}, "", "busy"),
        ({"detail": "the model is not loaded"}, "", "the model is not loaded"),
        ({"detail": [{"loc": ["body", "seed"], "msg": "not permitted"}]}, "", "body.seed: not permitted"),
        ({"object": "error", "message": "2048 tokens", "code": 400}, "", "2048 tokens"),
        ({"errors": [{"message": "one"}, {"message": "two"}]}, "", "one; two"),
        ({"error": {"error": {"message": "inner"}}}, "", "inner"),
        ("a text", "", "a text"),
        (None, "<html><script>x()</script><h1>502</h1> Bad\ngateway", "502 Bad gateway"),
        (None, "", ""), ({}, "", ""), (7, "", ""), ({"error": {"message": {"a": 1}}}, "", ""),
        ({"error": "a\x1b[2Jb\ud800"}, "", "a [2Jb"),
    ],
)  # fmt: skip
def test_what_an_endpoint_complains_of_is_found_in_every_form(found, body, told):
    assert error_told(found, body) == told


def test_an_error_in_a_reply_of_status_200_counts_as_its_own_code():
    assert status_of(200, {"error": {"code": 429}}) == 429
    assert status_of(200, {"error": {"code": "overloaded"}}) == 502
    assert status_of(200, {"error": "busy"}) == 502
    assert status_of(200, {"error": None, **reply("yes")}) == 200
    assert status_of(503, {"error": {"code": 429}}) == 503


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(
        st.sampled_from(["error", "message", "detail", "choices", "content", "code", "loc", "msg", "param"]), x
    ), max_leaves=12,
)  # fmt: skip


@given(ANY_JSON, st.text())
def test_any_reply_is_read(found, body):
    assert len(error_told(found, body)) <= 200
    assert isinstance(status_of(200, found), int)
    with contextlib.suppress(LabelRefused):
        assert answer_text(found)[0].strip()


@pytest.mark.parametrize(
    ("told", "parameter", "changed"),
    [
        ("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
         "max_tokens", Dialect(tokens_field="max_completion_tokens")),
        ("This model takes 'max_completion_tokens' and does not support the parameter 'max_tokens'.", "",
         Dialect(tokens_field="max_completion_tokens")),
        ("Only the default value (1) of 'temperature' is supported by this model.", "temperature",
         Dialect(left_out=frozenset({"temperature"}))),
        ("body.seed: Extra inputs are not permitted", "", Dialect(left_out=frozenset({"seed"}))),
        ("unknown field: stream", "", Dialect(left_out=frozenset({"stream"}))),
        ("max_tokens is too large: 700, at most 512 are possible", "max_tokens", None),
        ("the longest context here is 2048 tokens", "", None),
        ("the model 'seed-judge' is not loaded", "", None),
        ("", "", None),
    ],
)  # fmt: skip
def test_an_endpoints_error_tells_which_field_it_does_not_take(told, parameter, changed):
    assert adapted(Dialect(), told, parameter) == changed


def test_a_field_is_given_up_once():
    both = Dialect(tokens_field="max_completion_tokens", left_out=frozenset({"temperature"}))
    assert adapted(both, "unsupported: max_completion_tokens, temperature", "") is None
