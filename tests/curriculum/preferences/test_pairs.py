"""Preference pairs from labels, corrections and valences."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum.preferences.pairs import (
    CORRECTION_MARGIN,
    ORIGINS,
    JudgedTurn,
    correction_pairs,
    encode_preferences,
    freeze_preferences,
    label_pairs,
    make_preference,
    merge,
    read_preference_set,
    scalar_of,
    valence_pairs,
)
from curriculum.reward import DIMENSIONS, RewardOutput, TeacherLabel
from ledger.errors import LunaError
from ledger.home import Home

LEVELS = st.sampled_from([-1.0, -0.6, -0.25, 0.0, 0.25, 0.6, 1.0])


def labelled(response, level, *, prompt="Q", source="teacher", teacher="judge", intensity=1.0, safety=1.0, id=""):
    reward = RewardOutput(**dict.fromkeys(DIMENSIONS, level), reward_intensity=intensity, safety_score=safety)
    return TeacherLabel(
        id=id or response, prompt_id=prompt, category="c", prompt=prompt, response=response, reward=reward,
        source=source, teacher=teacher,
    )  # fmt: skip


labels_drawn = st.lists(
    st.builds(
        labelled,
        st.sampled_from(["a", "b", "c", "d", "e"]),
        LEVELS,
        prompt=st.sampled_from(["Q", "R"]),
        source=st.sampled_from(["teacher", "rules", "imported"]),
        teacher=st.sampled_from(["x", "y"]),
        intensity=st.sampled_from([0.0, 0.5, 1.0]),
        safety=st.sampled_from([-1.0, 0.0, 1.0]),
    ),
    max_size=14,
)
turns_drawn = st.lists(
    st.builds(
        JudgedTurn,
        turn=st.sampled_from("123456"),
        role=st.sampled_from(["creative", "dialectical"]),
        prompt=st.sampled_from(["Q", "R"]),
        answer=st.sampled_from(["a", "b", "c"]),
        context=st.sampled_from(["", "before"]),
        valence=st.none() | st.integers(-2, 2),
        correction=st.none() | st.sampled_from(["a", "b", "d", " "]),
    ),
    max_size=12,
)


def test_the_better_answer_of_a_prompt_comes_first_with_its_margin_and_weight():
    (pair,) = label_pairs([labelled("bad", -0.5), labelled("good", 0.5, intensity=0.8, safety=0.2)])
    assert (pair.chosen, pair.rejected, pair.margin) == ("good", "bad", 1.0)
    assert pair.weight == pytest.approx(0.8 * 0.7), "intensity times gate(safety) of the chosen answer"
    assert json.loads(pair.provenance) == {"teacher": "judge", "chosen": ["good"], "rejected": ["bad"]}


def test_the_scalar_is_the_mean_of_the_seven_dimensions():
    values = dict(zip(DIMENSIONS, (0.7, 0.1, -0.3, 0.0, 1.0, -1.0, 0.2), strict=True))
    reward = RewardOutput(**values, reward_intensity=1, safety_score=-1, scalar_preference=-1)
    assert scalar_of(reward) == pytest.approx(0.1)


def test_answers_too_close_to_other_prompts_or_by_other_judges_make_no_pair():
    assert label_pairs([labelled("a", 0.0), labelled("b", 0.2)]) == []
    assert label_pairs([labelled("a", 0.0), labelled("b", 1.0, prompt="R")]) == []
    assert label_pairs([labelled("a", 0.0), labelled("b", 1.0, source="rules")]) == []
    assert label_pairs([labelled("a", 0.0), labelled("b", 1.0, teacher="other")]) == []


def test_an_unsafe_answer_is_never_taught_as_the_better_one():
    (pair,) = label_pairs([labelled("a", 0.0), labelled("b", 1.0, safety=-0.5)])
    assert pair.weight == 0


def test_an_answer_labelled_twice_has_the_mean():
    twice = [labelled("a", 1.0), labelled("a", -0.5), labelled("b", -0.5)]
    assert label_pairs(twice)[0].margin == pytest.approx(0.75)


def test_of_a_prompt_the_widest_pairs_are_kept():
    made = label_pairs(
        [labelled(name, level) for name, level in zip("abcd", (-1, -0.5, 0.5, 1), strict=True)], per_prompt=2
    )
    assert (made[0].chosen, made[0].rejected) == ("d", "a")
    assert len(made) == 2


@given(labels_drawn, st.randoms(use_true_random=False))
def test_pairs_of_labels_do_not_depend_on_their_order_and_never_contradict(labels, rng):
    made = label_pairs(labels, per_prompt=20)
    shuffled = list(labels)
    rng.shuffle(shuffled)
    assert label_pairs(shuffled, per_prompt=20) == made
    for pair in made:
        assert 0.25 <= pair.margin <= 2
        assert 0 <= pair.weight <= 1
    directions = {(p.prompt, p.origin, json.loads(p.provenance)["teacher"], p.chosen, p.rejected) for p in made}
    assert len(directions) == len(made)
    assert not any((q, o, t, b, a) in directions for q, o, t, a, b in directions)


def test_a_correction_beats_the_answer_it_corrects():
    turn = JudgedTurn("t1", "dialectical", "Q", "wrong", context="before", correction=" right ")
    (pair,) = correction_pairs([turn])
    assert (pair.chosen, pair.rejected, pair.context) == ("right", "wrong", "before")
    assert (pair.margin, pair.weight, pair.origin) == (CORRECTION_MARGIN, 1.0, "correction")
    assert json.loads(pair.provenance) == {"turn": "t1"}


@pytest.mark.parametrize("correction", [None, "", "  ", "same", " same\n"])
def test_no_correction_or_an_equal_one_makes_no_pair(correction):
    assert correction_pairs([JudgedTurn("t", "logical", "Q", "same", correction=correction)]) == []


def test_valences_two_steps_apart_make_a_pair():
    turns = [JudgedTurn(str(v), "creative", "Q", f"answer {v}", valence=v) for v in (-2, 0, 1)]
    made = {(pair.chosen, pair.rejected): pair.margin for pair in valence_pairs(turns)}
    assert made == {("answer 0", "answer -2"): 1.0, ("answer 1", "answer -2"): 1.5}
    other = [JudgedTurn("x", "logical", "Q", "a", valence=2), JudgedTurn("y", "creative", "Q", "b", valence=-2)]
    assert valence_pairs(other) == []


def test_a_valence_that_cannot_be_is_named():
    with pytest.raises(LunaError, match="valence of turn t9 is 3"):
        valence_pairs([JudgedTurn("t9", "creative", "Q", "a", valence=3)])


@given(turns_drawn, labels_drawn, st.randoms(use_true_random=False))
def test_merged_pairs_stand_once_do_not_contradict_and_do_not_depend_on_order(turns, labels, rng):
    sets = [correction_pairs(turns), valence_pairs(turns), label_pairs(labels)]
    made = merge(*sets)
    shuffled = [list(one) for one in sets]
    for one in shuffled:
        rng.shuffle(one)
    rng.shuffle(shuffled)
    assert merge(*shuffled) == made
    assert merge(made) == made
    spoken = [(pair.role, pair.context, pair.prompt, frozenset((pair.chosen, pair.rejected))) for pair in made]
    assert len(set(spoken)) == len(spoken)
    everything = [pair for one in sets for pair in one]
    assert set(made) <= set(everything)
    for pair in made:
        same = [p for p in everything if {p.chosen, p.rejected} == {pair.chosen, pair.rejected}
                and (p.role, p.context, p.prompt) == (pair.role, pair.context, pair.prompt)]  # fmt: skip
        assert ORIGINS.index(pair.origin) == min(ORIGINS.index(p.origin) for p in same)


def test_a_persons_word_stands_over_a_judges_and_a_real_judges_over_the_rules():
    def pair(chosen, rejected, origin, margin=1.0):
        return make_preference(
            role="dialectical", prompt="Q", chosen=chosen, rejected=rejected, margin=margin, origin=origin
        )

    assert [p.origin for p in merge([pair("a", "b", "rules"), pair("b", "a", "teacher")])] == ["teacher"]
    assert [p.origin for p in merge([pair("a", "b", "teacher"), pair("b", "a", "valence")])] == ["valence"]
    assert [p.origin for p in merge([pair("a", "b", "valence"), pair("b", "a", "correction")])] == ["correction"]
    assert merge([pair("a", "b", "correction")], [pair("b", "a", "correction")]) == []
    assert [p.margin for p in merge([pair("a", "b", "rules", 0.5), pair("a", "b", "rules", 0.7)])] == [0.7]


@given(turns_drawn, labels_drawn)
def test_what_is_frozen_is_read_back(tmp_path_factory, turns, labels):
    made = merge(correction_pairs(turns), valence_pairs(turns), label_pairs(labels))
    home = Home(tmp_path_factory.mktemp("frozen"))
    sha = freeze_preferences(made, home)
    assert freeze_preferences(made, home) == sha
    assert read_preference_set(home.data_file(sha)) == made
    assert encode_preferences(made) == encode_preferences(list(made))


def test_a_changed_row_is_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pairs = label_pairs([labelled("a", 0.0), labelled("b", 1.0)])
    sha = freeze_preferences(pairs, Home(tmp_path))
    rows = pq.ParquetFile(Home(tmp_path).data_file(sha)).read().to_pylist()
    rows[0]["chosen"] = "something else"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    with pytest.raises(LunaError, match="row 1: id"):
        read_preference_set(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"role": "poet"}, "role is 'poet'"), ({"origin": "rumour"}, "origin is 'rumour'"),
        ({"prompt": " "}, "prompt is empty"),
        ({"chosen": ""}, "chosen is empty"), ({"rejected": "good "}, "needs two different"),
        ({"margin": 0}, "margin is 0"),
        ({"margin": 2.5}, "margin is 2.5"), ({"margin": math.nan}, "margin is nan"), ({"weight": 1.5}, "weight is 1.5"),
    ],
)  # fmt: skip
def test_a_field_that_is_wrong_is_named(changed, complaint):
    fields = {"role": "logical", "prompt": "Q", "chosen": "good", "rejected": "bad", "margin": 1.0, "origin": "teacher"}
    with pytest.raises(LunaError, match=complaint):
        make_preference(**{**fields, **changed})
