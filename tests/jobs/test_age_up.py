"""The age-up: when it is due, what it learns from, and when it waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.settings import Settings
from cluster.steps.lessons import new_lessons
from curriculum.parquet import freeze
from curriculum.reward import DIMENSIONS
from jobs.age_up import age_up, lessons_due
from ledger.conversations import Label, Turn
from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import ROLES
from ledger.rules.age_up import age_up_reason, examples_needed, was_tried
from ledger.rules.cadence import Cadence
from ledger.rules.karma import karma_state
from ledger.scores import Score
from ledger.store import Ledger, Stores
from tests.cluster.test_lessons import take
from tests.ledger.builders import add_generation, make_ledger, sha

AT = "2026-01-01T00:00:00Z"
SETTINGS = Settings()
IDLE = Cadence(memory=0.1, reward=0.0, quiet=False)


@pytest.fixture
def home(tmp_path):
    """A home whose lineage has one accepted generation, of age 0."""
    place = Home(tmp_path / "home")
    with make_ledger(place.root) as ledger:
        empty = freeze([], place)
        add_generation(ledger, 0, None, data_delta_sha=empty, holdout_sha=empty)
    return place


def talk(home, answers, valence=2, preference=1.0, first=0):
    """So many answers, each liked and scored."""
    with Stores.create(home) as stores:
        for number in range(first, first + answers):
            turn = Turn(
                id=f"{number:032x}", conversation="1" * 32, kind="generate", lineage="main", role=ROLES[number % 3],
                generation=0, adapter_sha=sha("a"), message=f"question {number}", context="", answer=f"answer {number}",
                prompt_tokens=5, answer_tokens=3, seconds=0.1, finish_reason="stop", temperature=0.7, seed=None, at=AT,
            )  # fmt: skip
            stores.conversations.add_turn(turn)
            stores.conversations.add_label(turn.id, Label(valence=valence, at=AT))
            values = dict.fromkeys(DIMENSIONS, 0.5)
            score = {"reward_intensity": 1.0, "safety_score": 1.0, "scalar_preference": preference, "gate": 1.0}
            stores.conversations.add_scores([Score(turn_id=turn.id, model=sha("reward"), **values, **score, at=AT)])


def test_below_the_threshold_nothing_is_raised_and_the_count_is_told(home):
    talk(home, 5)
    assert lessons_due(home, SETTINGS, now=False) == ("not yet: karma 10.0 of 100, 5 new lessons", [])


def test_at_the_threshold_the_answers_that_were_liked_are_the_lessons(home):
    talk(home, 55)
    talk(home, 3, valence=-2, preference=0.1, first=55)
    why, lessons = lessons_due(home, SETTINGS, now=False)
    assert why.startswith("age-up: karma 107 of 100; 55 new lessons")
    assert {lesson.output for lesson in lessons} == {f"answer {i}" for i in range(55)}


def test_asked_for_it_goes_on_what_there_is_and_says_when_there_is_nothing(home):
    home.settings_file.write_text('profile = "tiny"')
    with pytest.raises(LunaError, match="nothing to learn from"):
        age_up(home, None, now=True)
    talk(home, 2)
    assert len(lessons_due(home, SETTINGS, now=True)[1]) == 2


def test_in_quiet_hours_it_waits(home):
    talk(home, 55)
    always = Settings.model_validate({"cadence": {"quiet_hours": [0, 23]}})
    almost = Settings.model_validate({"cadence": {"quiet_hours": [23, 0]}})
    told = {lessons_due(home, one, now=False)[0] for one in (always, almost)}
    assert any("quiet hours" in why for why in told)
    assert any(why.startswith("age-up") for why in told)


def test_after_a_rejection_the_next_try_waits_for_new_conversations(home):
    talk(home, 55)
    lessons = lessons_due(home, SETTINGS, now=False)[1]
    with Ledger.create(home) as ledger:
        tried = {"data_delta_sha": freeze(lessons, home), "holdout_sha": freeze([], home)}
        add_generation(ledger, 1, 0, verdict="rejected", reason="recall", **tried)
    why, again = lessons_due(home, SETTINGS, now=False)
    assert not again
    assert "G1 tried all of it and was rejected" in why
    talk(home, 1, first=55)
    assert len(lessons_due(home, SETTINGS, now=False)[1]) == 56, "karma stayed, and there is something new"


def test_acceptance_takes_karma_back_to_nothing(home):
    talk(home, 55)
    with Ledger.create(home) as ledger:
        take(ledger, 1, 0, new_lessons(Stores.of(ledger), "main"))
    assert lessons_due(home, SETTINGS, now=False)[0] == "not yet: karma 0.0 of 250, 0 new lessons"


@given(st.floats(-50, 99.9), st.floats(0, 0.49), st.floats(0, 0.49))
def test_neither_karma_nor_cadence_short_of_their_bounds_call_for_anything(earned, memory, reward):
    assert age_up_reason(karma_state(earned, 0), Cadence(memory, reward, quiet=False)) == ""


def test_karma_or_the_cadence_alone_call_for_it():
    assert "karma 100 of 100" in age_up_reason(karma_state(100, 0), IDLE)
    assert "100%" in age_up_reason(karma_state(0, 0), Cadence(1.0, 0.0, quiet=False))


@given(st.sets(st.text(max_size=2)), st.sets(st.text(max_size=2)))
def test_something_new_is_always_worth_a_try(lessons, tried):
    assert was_tried(lessons, tried) == (bool(tried) and not lessons - tried)


@given(st.integers(1, 1000), st.integers(1, 90))
def test_the_held_out_share_of_what_is_needed_is_enough(min_items, percent):
    assert examples_needed(min_items, percent) * percent / 100 >= min_items
