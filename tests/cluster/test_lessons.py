"""What conversations teach: nothing is lost, nothing is learned twice, and recipes fill up what is missing."""

from __future__ import annotations

from collections import Counter

import pytest

from cluster.settings import Settings
from cluster.steps.filling import everyday_filling, filling
from cluster.steps.lessons import new_lessons, news
from curriculum.reward import DIMENSIONS
from curriculum.split import keys_of, split_by_group
from ledger.conversations import Label, Turn
from ledger.roles import ROLES
from ledger.scores import Score
from ledger.store import Stores
from ledger.taken import Taken
from tests.ledger.builders import by_role, make_ledger, make_move, make_trio, sha

LAST_MONTH, TODAY = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
SETTINGS = Settings()


def take(ledger, gen_id, parent, lessons, verdict="accepted"):
    """Judge a generation that trained on these lessons."""
    before = None if parent is None else by_role(ledger.generation(parent))
    move = make_move(ledger.head(), gen_id) if verdict == "accepted" else None
    taken = [Taken(lesson.id, "train", ()) for lesson in lessons]
    ledger.record_judgement(make_trio(gen_id, before, verdict=verdict), [], move, taken=taken)


def say(stores, number, at=TODAY, lineage="main", **changes):
    values = {
        "id": f"{number:032x}", "conversation": f"{number // 10:032x}", "kind": "generate", "lineage": lineage,
        "role": "logical", "generation": 0, "adapter_sha": sha("a"), "message": f"question {number}", "context": "",
        "answer": f"answer {number}", "prompt_tokens": 5, "answer_tokens": 3, "seconds": 0.1, "finish_reason": "stop",
        "temperature": 0.7, "seed": None, "at": at,
    }  # fmt: skip
    turn = Turn(**values | changes)
    stores.conversations.add_turn(turn)
    return turn


def like(stores, number, at=TODAY, **changes):
    stores.conversations.add_label(say(stores, number, at, **changes).id, Label(valence=2, at=at))


def correct(stores, number, words, at=TODAY):
    stores.conversations.add_label(f"{number:032x}", Label(correction=words, at=at))


def score(stores, number, scalar):
    rated = dict.fromkeys(DIMENSIONS, 0.5) | {"reward_intensity": 1.0, "safety_score": 1.0, "gate": 1.0}
    stores.conversations.add_scores(
        [Score(turn_id=f"{number:032x}", model=sha("reward"), **rated, scalar_preference=scalar, at=TODAY)]
    )


def new(stores, lineage="main"):
    return {lesson.output for lesson in new_lessons(stores, lineage)}


@pytest.fixture
def stores(tmp_path):
    """A home whose lineage has one accepted generation."""
    with make_ledger(tmp_path / "home") as ledger:
        take(ledger, 0, None, [])
        yield Stores.of(ledger)


def test_what_is_said_while_a_generation_trains_is_learned_by_the_next_one(stores):
    like(stores, 1)
    collected = new_lessons(stores, "main")
    like(stores, 2)
    take(stores.ledger, 1, 0, collected)
    assert new(stores) == {"answer 2"}
    take(stores.ledger, 2, 1, new_lessons(stores, "main"))
    assert new(stores) == set()


def test_a_correction_of_last_months_answer_is_learned(stores):
    like(stores, 1, LAST_MONTH)
    say(stores, 2, LAST_MONTH)
    take(stores.ledger, 1, 0, new_lessons(stores, "main"))
    assert new(stores) == set()
    correct(stores, 1, "Better, now that I think of it.")
    correct(stores, 2, "Never liked, and better so.")
    assert new(stores) == {"Better, now that I think of it.", "Never liked, and better so."}


def test_corrections_of_an_aborted_answer_and_of_the_bases_are_learned(stores):
    say(stores, 1, finish_reason="aborted", answer="Half an")
    say(stores, 2, role="base", generation=None, adapter_sha=None)
    correct(stores, 1, "Half an hour.")
    correct(stores, 2, "Not so dry.")
    assert new(stores) == {"Half an hour.", "Not so dry."}


def test_pending_talk_stays_new_when_a_generation_on_other_data_is_accepted(stores):
    like(stores, 1)
    take(stores.ledger, 1, 0, [])
    assert new(stores) == {"answer 1"}


def test_a_rejected_generation_takes_no_lesson(stores):
    like(stores, 1)
    take(stores.ledger, 1, 0, new_lessons(stores, "main"), verdict="rejected")
    assert new(stores) == {"answer 1"}


def test_after_a_roll_back_the_lessons_of_what_was_undone_are_new_again(stores):
    like(stores, 1)
    take(stores.ledger, 1, 0, new_lessons(stores, "main"))
    like(stores, 2)
    take(stores.ledger, 2, 1, new_lessons(stores, "main"))
    stores.ledger.move_head(make_move(2, 1, "rollback"))
    assert new(stores) == {"answer 2"}
    stores.ledger.move_head(make_move(1, 0, "rollback"))
    assert new(stores) == {"answer 1", "answer 2"}


def test_a_label_taken_back_or_changed_for_the_worse_teaches_no_more(stores):
    for number in (1, 2):
        like(stores, number)
    stores.conversations.add_label(f"{1:032x}", Label(at=TODAY))
    stores.conversations.add_label(f"{2:032x}", Label(valence=-1, at=TODAY))
    assert new(stores) == set()


def test_only_answers_of_the_lineage_that_were_labelled_or_that_the_reward_model_liked_are_read(stores):
    for number in range(1, 5):
        say(stores, number)
    like(stores, 5, lineage="other")
    score(stores, 1, 0.5)
    score(stores, 2, -0.5)
    correct(stores, 3, "Better.")
    read = stores.conversations.teaching_turns("main", 0.0)
    assert [turn.message for turn in read] == ["question 1", "question 3"]
    assert new(stores) == {"answer 1", "Better."}
    with stores.conversations.db.reading() as connection:
        plan = " ".join(
            row["detail"]
            for row in connection.execute(
                "EXPLAIN QUERY PLAN SELECT number FROM turns WHERE lineage = 'main' AND id IN "
                "(SELECT turn_id FROM labels UNION SELECT turn_id FROM scores WHERE scalar_preference > 0)"
            )
        )
    assert "SCAN turns" not in plan
    assert "scores_by_preference" in plan


def test_pairs_are_new_as_long_as_their_better_answer_is(stores):
    say(stores, 1)
    correct(stores, 1, "Better.")
    for number, valence in ((2, 2), (3, -2), (4, 0), (5, -2)):
        turn = say(stores, number, message="Which of the two?" if number < 4 else "And of these?")
        stores.conversations.add_label(turn.id, Label(valence=valence, at=TODAY))
    found = news(stores, "main")
    assert (len(found.lessons), found.pairs) == (2, 2), "an answer that was not liked is no lesson"
    take(stores.ledger, 1, 0, found.lessons)
    assert news(stores, "main").pairs == 0


# -- filling -------------------------------------------------------------------------------------------------------


def held_out(examples):
    return split_by_group(list(examples), [], SETTINGS.data.holdout_percent).holdout


def filled(stores, own):
    return filling(stores.ledger, "main", SETTINGS, own, held_out)


def test_a_recipe_fills_every_role_to_what_the_gates_need_with_nothing_taken_before(stores, caplog):
    caplog.set_level("INFO", "cluster")
    for number in range(30):
        like(stores, number, role=ROLES[number % 3])
    own = new_lessons(stores, "main")
    first = filled(stores, own)
    assert first == filled(stores, own), "collecting twice collects the same"
    counts = Counter(example.role for example in first)
    told = next(line for line in caplog.messages if "filled up" in line)
    assert f"creative: 10 of your own, {counts['creative']} from the recipe" in told
    take(stores.ledger, 1, 0, [*own, *first])
    second = filled(stores, [])
    assert not {e.id for e in first} & {e.id for e in second}
    for own_and_filled in ([*own, *first], second):
        held = Counter(example.role for example in held_out(own_and_filled))
        assert all(held[role] >= SETTINGS.gates.min_items for role in ROLES)


def test_what_the_split_leaves_short_is_made_up_for(stores):
    def stingy(examples):
        """Half of what the share would be."""
        return held_out(examples)[::2]

    found = filling(stores.ledger, "main", SETTINGS, [], stingy)
    held = Counter(example.role for example in stingy(found))
    assert all(held[role] >= SETTINGS.gates.min_items for role in ROLES)


def test_a_role_with_enough_of_its_own_gets_nothing(stores, caplog):
    caplog.set_level("INFO", "cluster")
    own = filled(stores, [])
    caplog.clear()
    assert filled(stores, own) == []
    assert caplog.messages == []


def test_no_later_generation_gets_everyday_lessons_unasked(stores):
    take(stores.ledger, 1, 0, [])
    assert everyday_filling(stores.ledger, "main", SETTINGS, []) == []


def test_where_the_split_holds_nothing_out_it_stops_asking(stores):
    found = filling(stores.ledger, "main", SETTINGS, [], lambda examples: [])
    assert max(Counter(example.role for example in found).values()) <= 2 * SETTINGS.gates.min_items * 100 // 20


def test_a_lesson_between_both_sides_is_no_news_for_no_generation_could_take_it(stores):
    like(stores, 1, conversation="c" * 32)
    (between,) = new_lessons(stores, "main")
    of_group, of_question, *_ = keys_of(between)
    known = [Taken("", "train", (of_group,)), Taken("", "holdout", (of_question,))]
    before = by_role(stores.ledger.generation(0))
    stores.ledger.record_judgement(make_trio(1, before), [], make_move(0, 1), taken=known)
    like(stores, 20)
    assert {lesson.output for lesson in news(stores, "main").lessons} == {"answer 20"}
