"""Conversations: what was said is kept in order, and the last label counts."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ledger.conversations import Label, Turn
from ledger.errors import LunaError
from ledger.home import Home
from ledger.store import Stores
from tests.ledger.builders import make_older, sha

AT = "2026-01-01T00:00:00Z"


def a_turn(number=1, conversation=1, **changes):
    values = {
        "id": f"{number:032x}", "conversation": f"{conversation:032x}", "kind": "generate", "lineage": "main",
        "role": "logical", "generation": 2, "adapter_sha": sha("logical"), "message": f"question {number}",
        "context": "", "answer": f"answer {number}", "prompt_tokens": 5, "answer_tokens": 3, "seconds": 0.5,
        "finish_reason": "stop", "temperature": 0.7, "seed": None, "at": AT,
    }  # fmt: skip
    return Turn(**values | changes)


@pytest.fixture
def conversations(tmp_path):
    with Stores.create(Home(tmp_path / "home")) as opened:
        yield opened.conversations


def test_a_conversation_comes_back_in_order_whatever_the_clock_says(conversations):
    turns = [a_turn(1, at="2026-01-01T00:00:09Z"), a_turn(2), a_turn(3, conversation=2), a_turn(4)]
    for turn in turns:
        conversations.add_turn(turn)
    found = conversations.turns(turns[0].conversation)
    assert [turn.message for turn in found] == ["question 1", "question 2", "question 4"]
    assert [turn.message for turn in conversations.turns(turns[0].conversation, 2)] == ["question 2", "question 4"]
    assert found[0].model_dump(exclude={"label", "score", "karma"}) == turns[0].model_dump()
    assert conversations.turns("f" * 32) == []


def test_storing_an_exchange_again_adds_nothing(conversations):
    conversations.add_turn(a_turn())
    conversations.add_turn(a_turn())
    assert len(conversations.turns(a_turn().conversation)) == 1


def test_the_last_label_counts_and_an_empty_one_takes_it_back(conversations):
    turn = a_turn()
    conversations.add_turn(turn)
    conversations.add_label(turn.id, Label(valence=-1, correction="not so", at=AT))
    conversations.add_label(turn.id, Label(valence=2, arousal="high", at=AT))
    (found,) = conversations.turns(turn.conversation)
    assert found.label == Label(valence=2, arousal="high", at=AT)
    conversations.add_label(turn.id, Label(at=AT))
    assert conversations.turns(turn.conversation)[0].label is None


def test_only_answers_that_exist_can_be_labelled(conversations):
    with pytest.raises(LunaError, match="no answer"):
        conversations.add_label("a" * 32, Label(valence=1, at=AT))


def test_the_list_is_newest_first_with_the_first_message_as_title(conversations):
    conversations.add_turn(a_turn(1, 1, message="first\nof  one " + "x" * 100))
    conversations.add_turn(a_turn(2, 2, message="first of two"))
    conversations.add_turn(a_turn(3, 1))
    one, two = conversations.latest()
    assert (one.turns, two.turns, two.title) == (2, 1, "first of two")
    assert one.title.startswith("first of one x")
    assert len(one.title) == 80
    assert len(conversations.latest(1)) == 1


@pytest.mark.parametrize(
    "changes",
    [{"generation": None}, {"role": "base"}, {"id": "../x"}, {"seconds": -1.0}, {"finish_reason": "tired"}],
)
def test_a_turn_that_contradicts_itself_is_refused(changes):
    with pytest.raises(ValidationError):
        a_turn(**changes)


@pytest.mark.parametrize("said", [{"valence": 3}, {"arousal": "very"}, {"mood": "good"}])
def test_a_label_outside_the_axes_is_refused(said):
    with pytest.raises(ValidationError):
        Label(at=AT, **said)


def test_a_home_of_an_older_luna_gets_its_tables(tmp_path):
    home = Home(tmp_path / "old")
    Stores.create(home).close()
    make_older(home, 2)
    with Stores.create(home) as stores:
        conversations = stores.conversations
        conversations.add_turn(a_turn())
        assert len(conversations.turns(a_turn().conversation)) == 1


def test_labelled_turns_of_all_conversations_come_with_the_label_in_force(conversations):
    for number, conversation in ((1, 1), (2, 2), (3, 1), (4, 2)):
        conversations.add_turn(a_turn(number, conversation=conversation))
    for number, values in (
        (3, {"valence": -1}),
        (1, {"valence": 2}),
        (3, {"correction": "better"}),
        (4, {"valence": 1}),
    ):
        conversations.add_label(a_turn(number).id, Label(at=AT, **values))
    conversations.add_label(a_turn(4).id, Label(at=AT))
    found = [(turn.message, turn.label.valence, turn.label.correction) for turn in conversations.labelled_turns()]
    assert found == [("question 1", 2, None), ("question 3", None, "better")]
