"""The forms in which people have their data."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.importing import ImportOptions, import_file, import_paths
from curriculum.importing.formats import FORMATS
from jobs.imported import summary_lines
from ledger.errors import LunaError
from ledger.roles import ROLES

ASKED, ANSWERED = "Is tea better hot?", "Many think so."


def imported(tmp_path, *records, name="x.jsonl", **options):
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(record) for record in records))
    return import_paths([str(path)], ImportOptions(("logical",), **options))


def exchange(**more):
    return [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED, **more}]


def node(name, parent, role, text, **more):
    message = {"author": {"role": role}, "content": {"content_type": "text", "parts": [text]}, **more}
    return {name: {"id": name, "message": message, "parent": parent, "children": []}}


def webui(*messages, current):
    return {"id": "chat-1", "chat": {"history": {"messages": {m["id"]: m for m in messages}, "currentId": current}}}


ONE_EXCHANGE = {
    "records": {"input": ASKED, "output": ANSWERED},
    "messages": {"messages": exchange(), "tools": [], "id": 7, "source_dataset": "x"},
    "ShareGPT": {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": ANSWERED}]},
    "Alpaca": {"instruction": ASKED, "input": "", "output": ANSWERED, "text": "ignored"},
    "prompt and completion": {"prompt": ASKED, "completion": ANSWERED},
    "ChatGPT export": {
        "mapping": {
            "r": {"id": "r", "message": None, "parent": None},
            **node("a", "r", "user", ASKED),
            **node("b", "a", "assistant", ANSWERED),
        },
        "current_node": "b",
    },
    "Claude export": {
        "uuid": "1",
        "chat_messages": [{"sender": "human", "text": ASKED}, {"sender": "assistant", "text": ANSWERED}],
    },
    "Open WebUI export": {"id": "1", "chat": {"messages": exchange()}},
}


@pytest.mark.parametrize("form", ONE_EXCHANGE)
def test_one_exchange_is_the_same_example_in_every_form(tmp_path, form):
    report = imported(tmp_path, ONE_EXCHANGE[form])
    assert [(e.input, e.output, e.context) for e in report.examples] == [(ASKED, ANSWERED, "")]
    assert report.records == {form: 1}
    assert report.problems == []


def test_every_form_has_a_test():
    assert {form.NAME for form in FORMATS} - {"preference pairs"} == set(ONE_EXCHANGE)


def test_trl_conversational_prompts_and_completions_are_read(tmp_path):
    record = {"prompt": [{"role": "system", "content": "Be brief."}, exchange()[0]], "completion": [exchange()[1]]}
    [example] = imported(tmp_path, record).examples
    assert (example.input, example.output, example.context) == (ASKED, ANSWERED, "Be brief.")


def test_a_completion_labelled_as_not_wanted_is_not_learned(tmp_path):
    report = imported(tmp_path, *({"prompt": ASKED, "completion": f"{n}", "label": n == 1} for n in range(2)))
    assert [example.output for example in report.examples] == ["1"]
    assert report.left_out == {"completions that are labelled as not wanted": 1}


PAIRS = {
    "texts": {"prompt": ASKED, "chosen": ANSWERED, "rejected": "No."},
    "messages": {
        "prompt": [exchange()[0]],
        "chosen": [exchange()[1]],
        "rejected": [{"role": "assistant", "content": "No."}],
    },
    "whole talks": {"chosen": exchange(), "rejected": [exchange()[0], {"role": "assistant", "content": "No."}]},
    "prompt and whole talks": {
        "prompt": ASKED,
        "chosen": exchange(),
        "rejected": [exchange()[0], {"role": "assistant", "content": "No."}],
        "score_chosen": 8.0,
    },
}


@pytest.mark.parametrize("record", PAIRS.values(), ids=PAIRS.keys())
def test_a_preference_pair_is_one_for_each_role(tmp_path, record):
    report = imported(tmp_path, record)
    assert [(pair.role, pair.prompt, pair.chosen, pair.rejected) for pair in report.pairs] == [
        (role, ASKED, ANSWERED, "No.") for role in ROLES
    ]
    assert report.examples == []


def test_equal_answers_are_no_pair(tmp_path):
    [problem] = imported(tmp_path, {"prompt": ASKED, "chosen": "No.", "rejected": "No."}).problems
    assert "two different ones" in problem.reason


def test_a_greeting_is_context_and_messages_in_a_row_are_one(tmp_path):
    talk = [
        {"role": "assistant", "content": "Hello, how can I help?"},
        {"role": "user", "content": "Is tea"},
        {"role": "user", "content": "better hot?"},
        {"role": "assistant", "content": "Many"},
        {"role": "assistant", "content": "think so."},
    ]
    [example] = imported(tmp_path, {"messages": talk}).examples
    assert (example.input, example.output) == ("Is tea\nbetter hot?", "Many\nthink so.")
    assert "Hello, how can I help?" in example.context


def test_tools_are_left_out_and_told(tmp_path):
    talk = [
        {"role": "user", "content": "What is 2+2?", "name": "anna"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": "4"},
        {"role": "function", "name": "sum", "content": "4"},
        {"role": "assistant", "content": [{"type": "text", "text": "It is 4."}, {"type": "image_url"}]},
    ]
    report = imported(tmp_path, {"messages": talk})
    assert [(e.input, e.output) for e in report.examples] == [("What is 2+2?", "It is 4.")]
    assert report.left_out == {
        "calls of tools": 1, "messages of tools": 2, "parts that are no text, such as pictures and files": 1
    }  # fmt: skip


def test_chatgpts_tree_is_walked_from_its_current_node(tmp_path):
    hidden = {"metadata": {"is_visually_hidden_from_conversation": True}}
    record = {
        "conversation_id": "c-1",
        "create_time": 1767225600.5,
        "current_node": "e",
        "mapping": {
            **node("s", None, "system", "secret rules", **hidden),
            **node("a", "s", "user", "And cold?"),
            **node("b", "a", "assistant", "An answer that was regenerated."),
            **node("c", "a", "assistant", "search(tea)", recipient="browser"),
            **node("d", "c", "tool", "42 results"),
            **node("e", "d", "assistant", "Some like it."),
        },
    }
    report = imported(tmp_path, record)
    [example] = report.examples
    assert (example.input, example.output, example.context) == ("And cold?", "Some like it.", "")
    assert (example.group, example.created_at) == ("conversation/c-1", "2026-01-01T00:00:00Z")
    assert report.left_out == {
        "hidden messages": 1,
        "calls of tools": 1,
        "messages of tools": 1,
        "messages of branches other than the one last shown": 1,
    }


def test_a_question_that_nobody_answered_is_told(tmp_path):
    report = imported(tmp_path, {"messages": [*exchange(), {"role": "user", "content": "And iced?"}]})
    assert (report.lessons, report.left_out) == (1, {"questions without an answer": 1})


def test_what_stands_beside_a_question_is_read_with_it(tmp_path):
    dolly = {"instruction": ASKED, "context": "Tea is a drink.", "response": ANSWERED, "category": "closed_qa"}
    squad = {"question": ASKED, "context": "Tea is a drink.", "answer": ANSWERED}
    one, other = imported(tmp_path, dolly, squad).examples
    assert (one.input, one.context) == (f"{ASKED}\nTea is a drink.", "")
    assert (other.input, other.context) == (ASKED, "Tea is a drink.")


def test_a_system_text_beside_a_pair_is_its_context_and_a_history_that_is_none_is_told(tmp_path):
    pair = {"prompt": ASKED, "chosen": ANSWERED, "rejected": "No.", "system": "Be brief."}
    assert {one.context for one in imported(tmp_path, pair).pairs} == {"Be brief."}
    assert {one.context for one in imported(tmp_path, pair | {"context": "At sea."}).pairs} == {"At sea.\nBe brief."}
    for form in ("Alpaca", "prompt and completion"):
        assert len(imported(tmp_path, ONE_EXCHANGE[form] | {"history": "We spoke before."}).left_out) == 1


def test_a_pair_given_twice_is_one_duplicate_for_all_roles(tmp_path):
    pair = {"prompt": ASKED, "chosen": ANSWERED, "rejected": "No."}
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, [pair, {**pair, "weight": 0.5}, {**pair, "context": "At sea."}])))
    report = import_paths([str(path)], ImportOptions())
    assert (len(report.pairs), report.duplicates) == (2 * len(ROLES), 1)
    assert ([one.weight for one in report.pairs], report.reweighted) == ([0.5] * 3 + [1.0] * 3, 1)
    assert "2 preference pairs" in summary_lines(report)


def test_a_tree_that_is_a_circle_is_named(tmp_path):
    record = {"mapping": {**node("a", "b", "user", "x"), **node("b", "a", "assistant", "y")}, "current_node": "a"}
    [problem] = imported(tmp_path, record).problems
    assert "each other's parents" in problem.reason


def test_claudes_content_stands_before_its_text(tmp_path):
    messages = [
        {"sender": "human", "text": ASKED, "attachments": [{"file_name": "x"}]},
        {
            "sender": "assistant",
            "text": "This block is not supported.",
            "content": [{"type": "text", "text": ANSWERED}, {"type": "tool_use"}],
        },
    ]
    report = imported(tmp_path, {"uuid": "u", "chat_messages": messages, "created_at": "2026-01-01T00:00:00.123456Z"})
    [example] = report.examples
    assert (example.output, example.created_at, example.group) == (ANSWERED, "2026-01-01T00:00:00Z", "conversation/u")
    assert sum(report.left_out.values()) == 2


def test_ratings_of_open_webui_decide_what_is_learned(tmp_path):
    question = {"id": "q", "parentId": None, "role": "user", "content": ASKED}
    good = {"id": "g", "parentId": "q", "role": "assistant", "content": ANSWERED, "annotation": {"rating": 1}}
    bad = {"id": "b", "parentId": "q", "role": "assistant", "content": "No.", "annotation": {"rating": "-1"}}
    liked = imported(tmp_path, webui(question, good, bad, current="g"))
    assert [(e.output, e.weight) for e in liked.examples] == [(ANSWERED, 2.0)]
    assert {(pair.chosen, pair.rejected) for pair in liked.pairs} == {(ANSWERED, "No.")}
    assert liked.left_out == {}
    unrated = {"id": "u", "parentId": "q", "role": "assistant", "content": "Maybe."}
    told = imported(tmp_path, webui(question, good, bad, unrated, current="g")).left_out
    assert told == {"messages of branches other than the one last shown": 1}
    disliked = imported(tmp_path, webui(question, bad, current="b"))
    assert (disliked.examples, disliked.problems) == ([], [])
    assert disliked.left_out["answers that the user disliked"] == 1


def test_turns_of_one_talk_are_one_group_and_a_single_question_stands_for_itself(tmp_path):
    report = imported(tmp_path, {"messages": [*exchange(), *exchange()]}, {"messages": exchange()})
    first, second = report.examples
    assert first.group == second.group
    assert first.group.startswith("conversation/")
    assert imported(tmp_path, {"messages": exchange()}).examples[0].group == ""


def test_a_file_is_read_once_for_all_roles_and_counted_once(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"input": "a", "output": "b"}\n{"input": "a", "output": "b"}\n{"input": "c"}\n')
    report = import_paths([str(path)], ImportOptions())
    assert [example.role for example in report.examples] == list(ROLES)
    assert (report.lessons, report.duplicates, len(report.problems)) == (1, 1, 1)


def test_the_last_weight_of_the_same_content_counts_and_is_told(tmp_path):
    report = imported(tmp_path, *({"input": "a", "output": "b", "weight": weight} for weight in (1.0, 0.5)))
    assert [example.weight for example in report.examples] == [0.5]
    assert report.reweighted == 1


def test_half_a_character_and_control_characters_are_taken_out_and_told(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"input": "Say a", "output": "half a moon: \\ud83c"}\n{"input": "b", "output": "\\u001b[31mred\\u0000"}'
    )
    report = import_file(path, "logical")
    assert [example.output for example in report.examples] == ["half a moon: \ufffd", "red"]
    assert sum(report.repaired.values()) == 2


def test_a_form_that_is_unknown_says_what_is_needed(tmp_path):
    [problem] = imported(tmp_path, {"title": "x", "body": "y"}).problems
    assert "found the keys title, body" in problem.reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
KEYS = ("messages", "conversations", "mapping", "chat_messages", "chat", "prompt", "chosen", "rejected", "instruction",
        "output", "completion", "input", "weight", "created_at", "id", "current_node", "label")  # fmt: skip


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(KEYS), JSON | st.just(ASKED) | st.just([{"role": "user", "content": 1}])))
def test_no_form_raises_anything_but_an_error_of_its_own(record):
    for form in FORMATS:
        if form.matches(record):
            try:
                form.read(record, lambda reason: None)
            except LunaError:
                continue
