"""Growth: what answers earn, what a later label changes, when counting begins anew, and when it is time to learn."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curriculum.reward import VALUES
from ledger.conversations import Conversations, Label
from ledger.journal import RunJournal
from ledger.metadata import build_metadata, read_metadata, update_karma, write_metadata
from ledger.rules.cadence import CadenceSettings, cadence, is_quiet
from ledger.rules.karma import AnswerState, KarmaSettings, KarmaTerms, answer_karma
from ledger.scores import SCORE_FIELDS, Score
from tests.ledger.builders import add_generation, make_ledger, make_row, sha
from tests.ledger.test_conversations import AT, a_turn

RULE = KarmaSettings()
MOST = RULE.reward + 2 * RULE.valence

signed = st.floats(-1, 1)
unit = st.floats(0, 1)
valences = st.integers(-2, 2)
tokens = st.integers(0, 10_000)
seconds = st.floats(0, 10_000)
answers = st.builds(AnswerState, preference=signed, gate=unit, valence=valences, tokens=tokens, seconds=seconds)


def karma(answer, **changes):
    return answer_karma(answer.model_copy(update=changes), RULE).karma


def a_score(turn, model="m", **changes):
    values = dict.fromkeys(VALUES, 0.5) | {"scalar_preference": 0.5, "gate": 1.0}
    return Score(turn_id=turn.id, model=sha(model), **values | changes, at=AT)


@pytest.fixture
def ledger(tmp_path):
    with make_ledger(tmp_path / "home") as opened:
        add_generation(opened, 0, None)
        yield opened


@pytest.fixture
def conversations(ledger):
    return Conversations(ledger.db)


# -- the formula ---------------------------------------------------------------------------------------------------


def test_karma_is_the_gated_reward_and_label_less_the_cost():
    answer = AnswerState(preference=0.5, gate=0.5, valence=2, tokens=100, seconds=4)
    terms = answer_karma(answer, RULE)
    assert (terms.reward, terms.label) == (0.5, 1.0)
    assert terms.cost == pytest.approx(0.02 + 0.02)
    assert terms.karma == pytest.approx(0.5 * 1.5 - 0.04)
    assert karma(answer, preference=-1.0, valence=-1) == pytest.approx(-1.5 - 0.04), "a loss is not gated"


@given(answers, signed, valences, unit)
def test_more_reward_a_better_label_or_more_safety_never_earn_less(answer, preference, valence, gate):
    assert karma(answer, preference=max(answer.preference, preference)) >= karma(answer)
    assert karma(answer, valence=max(answer.valence, valence)) >= karma(answer)
    assert karma(answer, gate=max(answer.gate, gate)) >= karma(answer)


@given(answers, tokens, seconds)
def test_more_tokens_or_time_never_earn_more(answer, more_tokens, more_seconds):
    assert karma(answer, tokens=answer.tokens + more_tokens) <= karma(answer)
    assert karma(answer, seconds=answer.seconds + more_seconds) <= karma(answer)


@given(answers)
def test_karma_is_bounded_and_an_unsafe_answer_earns_nothing_positive(answer):
    assert -MOST - RULE.cost_most <= karma(answer) <= MOST
    assert karma(answer, gate=0.0) <= 0


# -- what is stored ------------------------------------------------------------------------------------------------


def test_a_score_has_the_reward_manifolds_values():
    assert set(VALUES) | {"scalar_preference"} <= set(SCORE_FIELDS)
    with pytest.raises(ValidationError):
        a_score(a_turn(), empathy=1.5)


def test_an_answer_earns_once_it_is_scored_and_its_terms_are_stored(conversations):
    turn = a_turn()
    conversations.add_turn(turn)
    conversations.add_label(turn.id, Label(valence=1, at=AT))
    assert conversations.karma_earned("main") == 0, "nothing is earned before a reward model has judged"
    conversations.add_scores([a_score(turn)])
    with conversations.db.reading() as connection:
        ((amount, stored),) = connection.execute("SELECT amount, terms FROM karma_events")
    terms = KarmaTerms.model_validate_json(stored)
    assert terms == answer_karma(
        AnswerState(preference=0.5, gate=1.0, valence=1, tokens=turn.answer_tokens, seconds=turn.seconds), RULE
    )
    (found,) = conversations.turns(turn.conversation)
    assert amount == terms.karma == found.karma == conversations.karma_earned("main")
    assert found.score == a_score(turn)
    assert found.label.valence == 1


@settings(max_examples=25)
@given(st.lists(st.one_of(st.integers(-2, 2), st.tuples(st.sampled_from("abc"), signed, unit)), min_size=1, max_size=8))
def test_the_sum_of_an_answers_events_is_the_karma_of_its_newest_state(tmp_path_factory, story):
    """A story of labels (numbers) and scores (model, preference, gate) in any order."""
    turn, valence, judged = a_turn(), 0, {}
    with make_ledger(tmp_path_factory.mktemp("story")) as ledger:
        conversations = Conversations(ledger.db)
        conversations.add_turn(turn)
        for event in story:
            if isinstance(event, int):
                valence = event
                conversations.add_label(turn.id, Label(valence=event, at=AT))
            else:
                model, preference, gate = event
                judged.setdefault(model, (preference, gate))  # a model judges an answer once
                conversations.add_scores([a_score(turn, model, scalar_preference=preference, gate=gate)])
        total = conversations.turns(turn.conversation)[0].karma or 0
    if not judged:
        assert total == 0
        return
    preference, gate = list(judged.values())[-1]
    state = AnswerState(
        preference=preference, gate=gate, valence=valence, tokens=turn.answer_tokens, seconds=turn.seconds
    )
    assert total == pytest.approx(answer_karma(state, RULE).karma)


def test_the_base_is_scored_and_earns_nothing(conversations):
    turn = a_turn(role="base", generation=None, adapter_sha=None)
    conversations.add_turn(turn)
    conversations.add_scores([a_score(turn)])
    (found,) = conversations.turns(turn.conversation)
    assert (found.score.model, found.karma) == (sha("m"), None)


def test_an_accepted_generation_sets_karma_back_and_a_rejected_one_does_not(ledger, conversations):
    turn = a_turn()
    conversations.add_turn(turn)
    conversations.add_scores([a_score(turn)])
    earned = conversations.karma_earned("main")
    assert earned > 0
    add_generation(ledger, 1, 0, verdict="rejected", reason="no")
    assert conversations.karma_earned("main") == earned
    add_generation(ledger, 2, 0)
    assert conversations.karma_earned("main") == 0
    conversations.add_label(turn.id, Label(valence=2, at=AT))
    assert conversations.karma_earned("main") == pytest.approx(2 * RULE.valence), (
        "the difference counts when it is made"
    )


def test_acceptance_spends_what_had_been_earned_when_its_run_began(ledger, conversations):
    early, late = a_turn(1), a_turn(2)
    conversations.add_turn(early)
    conversations.add_scores([a_score(early)])
    RunJournal(ledger.db).create_run("run-1", "main", 1, {})  # the run that add_generation names
    conversations.add_turn(late)
    conversations.add_scores([a_score(late)])
    both = conversations.karma_earned("main")
    add_generation(ledger, 1, 0)
    assert conversations.karma_earned("main") == pytest.approx(both / 2)


def test_what_is_unscored_is_whole_and_not_empty(conversations):
    whole, broken, empty, scored = (
        a_turn(1), a_turn(2, finish_reason="aborted"), a_turn(3, answer=" \n"), a_turn(4),
    )  # fmt: skip
    for turn in (whole, broken, empty, scored):
        conversations.add_turn(turn)
    conversations.add_scores([a_score(scored), a_score(a_turn(99))])
    assert [turn.id for turn in conversations.unscored(10)] == [whole.id]


def test_deleting_a_turn_takes_its_scores_and_karma_along(ledger, conversations):
    turn = a_turn()
    conversations.add_turn(turn)
    conversations.add_scores([a_score(turn)])
    with closing(sqlite3.connect(ledger.db.home.db)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("DELETE FROM turns")
        connection.commit()
        assert [connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("scores", "karma_events")] == [
            0,
            0,
        ]
    assert conversations.karma_earned("main") == 0


def test_an_adapter_says_what_has_been_earned_since(tmp_path):
    row = make_row()
    update_karma(tmp_path, 30.0, 0, AT)
    assert list(tmp_path.iterdir()) == [], "an adapter without metadata gets none"
    write_metadata(tmp_path, build_metadata(row, n_conversations=0, passed=[], age=0))
    before = read_metadata(tmp_path)
    assert before["karma"] == {"earned": 0.0, "threshold": 100, "progress": 0.0, "as_of": row.trained_at}
    update_karma(tmp_path, 30.0, 0, "2026-04-01T00:00:00Z")
    after = read_metadata(tmp_path)
    assert after["karma"] == {"earned": 30.0, "threshold": 100, "progress": 0.3, "as_of": "2026-04-01T00:00:00Z"}
    assert after["next_age_up"] == {"name": "vocabulary", "karma_missing": 70.0}
    assert list(after) == list(before)


# -- cadence -------------------------------------------------------------------------------------------------------

counts = st.integers(0, 2000)


@given(counts, counts)
def test_learning_is_due_when_either_is_reached_or_both_are_at_half(memory, reward):
    found = cadence(memory, reward, 12, CadenceSettings())
    assert found.due == (memory >= 500 or reward >= 200 or (memory >= 250 and reward >= 100))


@given(counts, counts, counts, counts)
def test_more_that_is_new_never_makes_it_less_due(memory, reward, more_memory, more_reward):
    before = cadence(memory, reward, 12, CadenceSettings())
    after = cadence(memory + more_memory, reward + more_reward, 12, CadenceSettings())
    assert after.due or not before.due


@given(st.integers(0, 23), st.integers(0, 23), st.integers(0, 23))
def test_quiet_hours_go_over_midnight_and_the_rest_of_the_day_is_not_quiet(hour, begin, end):
    assert is_quiet(begin, (begin, end)) == (begin != end)
    assert not is_quiet(end, (begin, end))
    if begin != end:
        assert is_quiet(hour, (begin, end)) != is_quiet(hour, (end, begin))
    assert not is_quiet(hour, None)
    assert cadence(10_000, 10_000, begin, CadenceSettings(quiet_hours=(begin, (begin + 1) % 24))).quiet
