"""Where pairs come from, and whom they are for."""

from __future__ import annotations

import json

import pytest

from curriculum.preferences.pairs import correction_pairs, freeze_preferences, make_preference, valence_pairs
from curriculum.preferences.sources import judged_turns, labelled_pairs, read_pairs
from curriculum.reward import DIMENSIONS, VALUES, RewardOutput, TeacherLabel
from curriculum.reward.scores import freeze_scores, read_scores
from ledger.conversations import Label, LabelledTurn
from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import ROLES

TEACHERS = {"prompt_id": "p1", "prompt": "What now?", "chosen": "Rest a little.", "rejected": "Nothing."}
OURS = {"prompt": "What now?", "chosen": "Rest a little.", "rejected": "Nothing."}


def written(tmp_path, *records):
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in records) + "\n")
    return file


def test_a_teachers_pair_is_one_for_each_role(tmp_path):
    pairs, bad = read_pairs(written(tmp_path, {**TEACHERS, "score_margin": 5.0}, {**TEACHERS, "chosen": "Sleep."}))
    assert [pair.role for pair in pairs] == [*ROLES, *ROLES]
    assert {pair.margin for pair in pairs} == {2.0, 1.0}
    assert {(pair.origin, pair.weight) for pair in pairs} == {("imported", 1.0)}
    assert bad == []


def test_our_own_form_keeps_its_role_and_weight(tmp_path):
    one = {**OURS, "role": "logical", "weight": 0.25, "context": "Before.", "origin": "correction", "margin": 0.5}
    pairs, _ = read_pairs(written(tmp_path, one, OURS))
    assert (pairs[0].role, pairs[0].weight, pairs[0].context, pairs[0].origin) == (
        "logical",
        0.25,
        "Before.",
        "correction",
    )
    assert [pair.role for pair in pairs[1:]] == list(ROLES)


def test_a_frozen_set_is_read_as_it_is(tmp_path):
    home = Home(tmp_path / "home").create()
    pair = make_preference(role="creative", **OURS, margin=1.0, origin="teacher")
    assert read_pairs(home.data_file(freeze_preferences([pair], home))) == ([pair], [])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("no json", "not JSON"),
        ("[1]", "not a JSON object"),
        ({**OURS, "mood": 1}, "unknown field 'mood'"),
        ({**OURS, "chosen": 3}, "found 3"),
        ({"prompt": "What?", "chosen": "a"}, "missing"),
        ({**OURS, "weight": 2.0}, "weight is 2.0"),
        ({**OURS, "rejected": OURS["chosen"]}, "two different ones"),
        ({**TEACHERS, "rejected": ""}, "rejected = '': "),
    ],
)
def test_a_line_that_is_no_pair_is_named_and_left_out(tmp_path, line, reason):
    pairs, bad = read_pairs(written(tmp_path, OURS, line))
    assert len(pairs) == 3
    assert [problem.line for problem in bad] == [2]
    assert reason in bad[0].reason
    with pytest.raises(LunaError, match="no usable pair"):
        read_pairs(written(tmp_path, line))


def test_labels_make_pairs_for_every_role_with_the_weight_of_the_better_answer():
    def label(response, level, safety):
        reward = RewardOutput(**dict.fromkeys(DIMENSIONS, level), reward_intensity=0.5, safety_score=safety)
        return TeacherLabel(prompt_id="p", category="c", prompt="Q", response=response, reward=reward, source="rules")

    pairs = labelled_pairs([label("good", 0.8, 1.0), label("bad", -0.5, 1.0), label("harm", 0.1, -1.0)], 0.25, 6)
    assert {pair.role for pair in pairs} == set(ROLES)
    weights = {(pair.chosen, pair.rejected): pair.weight for pair in pairs}
    assert weights == {("good", "bad"): 0.5, ("good", "harm"): 0.5, ("harm", "bad"): 0.0}


def turn(number, role="logical", answer="answer", valence=None, correction=None, finish="stop"):
    own = {} if role == "base" else {"generation": 0, "adapter_sha": "a" * 64}
    return LabelledTurn(
        id=f"{number:032x}", conversation="c" * 32, kind="generate", lineage="main", role=role, message="question",
        context="before", answer=answer, prompt_tokens=1, answer_tokens=1, seconds=0.1, finish_reason=finish,
        temperature=0.0, seed=None, at="2026-01-01T00:00:00Z",
        label=Label(valence=valence, correction=correction, at="2026-01-01T00:00:00Z"),
        **{"generation": None, "adapter_sha": None, **own},
    )  # fmt: skip


def test_what_people_said_becomes_pairs_of_whole_answers_of_the_voices():
    turns = [
        turn(1, answer="warm", valence=2),
        turn(2, answer="cold", valence=-1),
        turn(3, answer="wrong", correction="right"),
        turn(4, role="base", answer="x", correction="y"),
        turn(5, answer="broken o", valence=-2, finish="aborted"),
    ]
    judged = judged_turns(turns)
    assert [one.turn for one in judged] == [turns[i].id for i in (0, 1, 2)]
    (corrected,), (felt,) = correction_pairs(judged), valence_pairs(judged)
    assert (corrected.chosen, corrected.rejected, corrected.context) == ("right", "wrong", "before")
    assert {corrected.group, felt.group} == {f"conversation/{turns[0].conversation}"}
    assert (felt.chosen, felt.rejected, felt.role) == ("warm", "cold", "logical")


def test_scores_come_back_by_id_and_equal_ones_have_equal_names(tmp_path):
    home = Home(tmp_path).create()
    scores = {
        name: RewardOutput(**dict.fromkeys(DIMENSIONS, level), reward_intensity=0.5, safety_score=-level)
        for name, level in (("b" * 64, 0.25), ("a" * 64, -1.0))
    }
    sha = freeze_scores(scores, home)
    assert freeze_scores(dict(reversed(scores.items())), home) == sha
    assert read_scores(home.data_file(sha)) == {name: score.values() for name, score in scores.items()}
    assert len(read_scores(home.data_file(sha))["a" * 64]) == len(VALUES)
    pair = make_preference(role="creative", **OURS, margin=1.0, origin="teacher")
    with pytest.raises(LunaError, match="no scores"):
        read_scores(home.data_file(freeze_preferences([pair], home)))
