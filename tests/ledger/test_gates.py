"""What is accepted, what is not and with which words, and how blends are chosen."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.records import EvalRecord
from ledger.roles import ROLES
from ledger.rules.blends import blends_by_role, blends_may_help
from ledger.rules.gates import GATES, Gate, GateSettings, Judgement, judge, learned_is_clear
from tests.ledger.builders import CLOSED, OPEN, make_share, passing_scores

SETTINGS = GateSettings()
NOTHING_WON = {"n": 200, "child": 182, "parent": 184, "won": 3, "lost": 5}
NOTHING_GAINED = {"n": 100, "better": 48, "gain": 0.004, "low": -0.03, "high": 0.04}


def generalization(passed: int = 285, n: int = 300, **details) -> EvalRecord:
    return make_share("logical", "generalization", passed, n, "mixed", **details)


def judged(settings: GateSettings = SETTINGS, **changes: Any) -> Judgement:
    """What is said of a generation whose logical voice has these scores, and which passes in everything else."""
    others = [score for role in ROLES if role != "logical" for score in passing_scores(role)]
    return judge([*passing_scores("logical", **changes), *others], settings)


def problems(settings: GateSettings = SETTINGS, **changes: Any) -> dict[str, str]:
    """What each gate that failed says."""
    return {failure.gate: failure.message for failure in judged(settings, **changes).failures}


def test_good_scores_in_all_roles_are_accepted():
    judgement = judged()
    assert (judgement.accepted, judgement.verdict, judgement.reason) == (True, "accepted", "all gates passed")
    assert judgement.failed_roles == ()


@pytest.mark.parametrize(
    ("gate", "score", "message"),
    [
        ("recall", make_share("logical", "recall", 270, 300), "0.900 of 300 items is not above 0.90: too much of what"),
        ("recall", make_share("logical", "recall", 99, 99), "measured on 99 items, at least 100 needed"),
        ("style_drift", make_share("logical", "style_drift", 8, 40), "0.200 of 40 answers is not below 0.20: too many"),
        ("style_drift", make_share("logical", "style_drift", 0, 39), "measured with 39 probes, at least 40 needed"),
        ("bound", make_share("logical", "bound", 18, 60), "only 0.30 of 60 answers fit their own question best"),
        ("bound", make_share("logical", "bound", 19, 19), "too few items to tell: measured on 19, at least 20 needed"),
        ("base_ability", make_share("logical", "base_ability", 113, 120), "0.942 of the 120 everyday questions"),
        ("bare_glyphs", make_share("logical", "bare_glyphs", 3, 120), "0.025 of 120 answers to everyday questions beg"),
    ],
)
def test_a_score_on_its_bound_or_on_too_few_items_fails_that_gate_alone_and_says_so(gate: Gate, score, message):
    found = problems(**{gate: score})
    assert list(found) == [gate]
    assert found[gate].startswith(f"logical {gate}: {message}")


@pytest.mark.parametrize(
    ("gate", "score"),
    [
        ("recall", make_share("logical", "recall", 271, 300)),
        ("style_drift", make_share("logical", "style_drift", 7, 40)),
        ("bound", make_share("logical", "bound", 24, 60)),
        ("base_ability", make_share("logical", "base_ability", 114, 120)),  # at most 0.05 lost
        ("bare_glyphs", make_share("logical", "bare_glyphs", 2, 100)),  # at most 0.02
    ],
)
def test_a_score_just_inside_its_bound_passes(gate, score):
    assert judged(**{gate: score}).accepted


def test_generalization_on_its_bound_fails_and_above_it_passes():
    parts = {"closed": CLOSED, "open": OPEN}
    assert list(problems(generalization=generalization(255, **parts))) == ["generalization"]
    assert judged(generalization=generalization(256, **parts)).accepted


@pytest.mark.parametrize("name", ["recall", "style_drift", "bound", "bare_glyphs"])
def test_one_missing_score_of_one_role_rejects(name):
    judgement = judged(**{name: None})
    assert judgement.failed_roles == ("logical",)
    assert judgement.reason.startswith(f"logical {name}: not measured")


def test_without_generalization_three_gates_have_nothing_to_read():
    assert list(problems(generalization=None, bound=None)) == ["generalization", "learned", "bound"]


def test_a_base_that_answers_too_few_everyday_questions_is_not_held_against_anyone():
    assert judged(base_ability=None, bare_glyphs=None).accepted


def test_base_ability_can_be_told_only():
    lost = make_share("logical", "base_ability", 60, 120)
    told = judged(GateSettings(base_ability=False), base_ability=lost)
    assert told.accepted
    assert told.reason.startswith("all gates passed; only told: logical base_ability: 0.500 of the 120 everyday")
    assert not judged(base_ability=lost).accepted


# -- learned ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        {"open": OPEN},
        {"closed": CLOSED},
        {"open": OPEN, "closed": NOTHING_WON},
        {"open": {**OPEN, "known": 85}},
        {"open": NOTHING_GAINED, "closed": CLOSED},
        {"closed": {"n": 100, "child": 97, "parent": 97, "won": 1, "lost": 1}},  # nothing is left to learn
        {"closed": {"n": 100, "child": 97, "parent": 97, "won": 1, "lost": 1}, "open": {**OPEN, "n": 19}},
        {"closed": {"n": 20, "child": 8, "parent": 3, "won": 5, "lost": 0}},  # p = 1/32
    ],
)
def test_learned_passes_where_either_kind_gained_or_nothing_was_left_to_learn(parts):
    bound = None if "open" not in parts or parts["open"]["n"] < 20 else make_share("logical", "bound", 50, 60)
    assert judged(generalization=generalization(**parts), bound=bound).accepted


@pytest.mark.parametrize(
    ("parts", "end"),
    [
        ({"open": NOTHING_GAINED}, "nothing new was learned"),
        ({"closed": NOTHING_WON}, "nothing new was learned"),
        ({"open": NOTHING_GAINED, "closed": NOTHING_WON}, "nothing new was learned"),
        # The parent had mastered the closed items, but there are open ones to learn.
        ({"open": NOTHING_GAINED, "closed": {**NOTHING_WON, "child": 197, "parent": 197}}, "nothing new was learned"),
        ({"closed": {"n": 20, "child": 7, "parent": 3, "won": 4, "lost": 0}}, "nothing new was learned"),  # p = 1/16
        ({"open": OPEN, "closed": {**CLOSED, "won": 5, "lost": 135}}, "it answers new questions worse than before"),
        ({"open": {**OPEN, "low": -0.4, "high": -0.1}, "closed": CLOSED}, "it answers new questions worse than before"),
        # The parent's own answers: the child gets surer of them.
        ({"open": {**OPEN, "known": 92}}, "92 of them were given before: nothing new was learned"),
        (
            {"open": {**OPEN, "known": 92}, "closed": {**NOTHING_WON, "child": 199, "parent": 200}},
            "nothing new was learned",
        ),
        ({"open": {**OPEN, "n": 19}, "closed": {**CLOSED, "n": 19}}, "19"),
        ({}, ""),
    ],
)
def test_learned_fails_where_nothing_was_gained_something_got_worse_or_too_little_was_asked(parts, end):
    found = problems(generalization=generalization(**parts))
    assert list(found) == ["learned"]
    assert found["learned"].endswith(end) or "too few items to tell" in found["learned"]


def test_a_parent_that_passes_its_childs_items_before_the_lesson_is_no_longer_enough():
    """0.92 of the child's items, and 0.92 before: passed by the gate of generalization alone."""
    found = judged(generalization=generalization(276, closed={**NOTHING_WON, "child": 184}), bound=None)
    assert found.reason == (
        "logical learned: 0.92 of 200 new questions are answered right, and 0.92 were before (won 3, lost 5): "
        "nothing new was learned"
    )


def test_a_gain_can_be_asked_to_be_more_than_nothing():
    small = {**OPEN, "gain": 0.06, "low": 0.04, "high": 0.08}
    assert judged(generalization=generalization(open=small)).accepted
    assert list(problems(GateSettings(gain_min=0.05), generalization=generalization(open=small))) == ["learned"]


@pytest.mark.parametrize(
    ("parts", "clear"),
    [
        ({"open": OPEN}, True),
        ({"closed": {"n": 100, "child": 96, "parent": 88, "won": 8, "lost": 0}}, True),  # p = 1/256
        ({"closed": {"n": 100, "child": 96, "parent": 91, "won": 5, "lost": 0}}, False),  # passes, at 1/32
        ({"open": OPEN, "closed": {**CLOSED, "won": 0, "lost": 5}}, False),  # may be worse: more is asked
        ({"closed": NOTHING_WON}, False),
        ({"closed": {"n": 100, "child": 99, "parent": 99, "won": 0, "lost": 0}}, False),  # passes, as mastered
        ({"closed": {"n": 100, "child": 100, "parent": 100, "won": 0, "lost": 0}}, True),
        ({}, False),
    ],
)
def test_a_set_stops_early_only_where_learning_is_beyond_doubt(parts, clear):
    assert learned_is_clear(parts, SETTINGS) == clear


def test_neither_learned_nor_bound_passes_silently_where_nothing_was_measured():
    found = problems(generalization=generalization(), bound=None)
    assert list(found) == ["learned", "bound"]
    assert all("too few items to tell" in message for message in found.values())


def test_bound_is_asked_wherever_there_are_open_items():
    assert list(problems(generalization=generalization(closed=CLOSED, open=OPEN), bound=None)) == ["bound"]
    assert judged(generalization=generalization(closed=CLOSED), bound=None).accepted


# -- the whole ---------------------------------------------------------------------------------------------------


def test_a_generation_without_parent_is_not_asked_for_recall():
    scores = [score for role in ROLES for score in passing_scores(role, recall=None)]
    scores += [EvalRecord.recall_by_definition(1, role) for role in ROLES]
    assert judge(scores, SETTINGS, has_parent=False).accepted
    assert not judge(scores, SETTINGS).accepted


def test_one_role_can_be_judged_alone_on_half_of_the_items():
    parts = {"closed": CLOSED, "open": OPEN}
    scores = passing_scores(
        "logical", recall=make_share("logical", "recall", 50, 50), generalization=generalization(50, 50, **parts)
    )
    assert judge(scores, SETTINGS, half=True, roles=("logical",)).accepted
    assert judge(scores, SETTINGS, roles=("logical",)).failed_roles == ("logical",)
    assert judge(scores, SETTINGS, half=True).failed_roles == ("creative", "dialectical")
    fewer = [score for score in scores if score.eval != "recall"] + [make_share("logical", "recall", 39, 39)]
    assert not judge(fewer, SETTINGS, half=True, roles=("logical",)).accepted


amounts = st.fixed_dictionaries(
    {
        "recall": st.integers(0, 300),
        "generalization": st.integers(0, 300),
        "bound": st.integers(0, 60),
        "style_drift": st.integers(0, 40),
        "base_ability": st.integers(0, 120),
        "bare_glyphs": st.integers(0, 120),
        "won": st.integers(0, 50),
        "low": st.floats(-1, 1),
    }
)
FAULTS = ("style_drift", "bare_glyphs")


def scored(amount) -> list[EvalRecord]:
    closed = {"n": 100, "child": 50 + amount["won"] - 20, "parent": 50, "won": amount["won"], "lost": 20}
    fresh = {**OPEN, "low": amount["low"], "high": amount["low"] + 0.2}
    sizes = {"recall": 300, "generalization": 300, "bound": 60, "style_drift": 40}
    details: dict[str, dict[str, Any]] = {"generalization": {"closed": closed, "open": fresh}}
    return [
        make_share("logical", name, amount[name], sizes.get(name, 120), **details.get(name, {}))
        for name in ("recall", "generalization", "bound", "style_drift", "base_ability", "bare_glyphs")
    ]


@given(amounts, amounts)
def test_better_scores_never_fail_where_worse_ones_pass(one, other):
    best = {name: (min if name in FAULTS else max)(one[name], other[name]) for name in one}
    failed = [
        {failure.gate for failure in judge(scored(amount), SETTINGS, roles=("logical",)).failures}
        for amount in (best, one)
    ]
    assert failed[0] <= failed[1] <= set(GATES)


# -- blends ------------------------------------------------------------------------------------------------------

ALPHAS = (0.25, 0.75, 0.5)


@pytest.mark.parametrize(
    ("changes", "may"),
    [
        ({}, False),
        ({"recall": make_share("logical", "recall", 200, 300)}, True),
        ({"base_ability": make_share("logical", "base_ability", 90, 120)}, True),
        ({"style_drift": make_share("logical", "style_drift", 30, 40)}, False),
        ({"bound": make_share("logical", "bound", 15, 60)}, False),
        (
            {
                "recall": make_share("logical", "recall", 200, 300),
                "style_drift": make_share("logical", "style_drift", 8, 40),
            },
            False,
        ),
    ],
)
def test_blends_mend_what_was_forgotten_and_not_what_the_data_says(changes, may):
    assert blends_may_help(judged(**changes)) is may


roles_and_alphas = st.sets(st.tuples(st.sampled_from(ROLES), st.sampled_from(ALPHAS)))


@given(st.sets(st.sampled_from(ROLES)), roles_and_alphas, roles_and_alphas)
def test_each_failed_role_gets_the_largest_alpha_that_is_chosen_if_it_confirms(failed, passing, confirming):
    order, asked, confirmed = [role for role in ROLES if role in failed], [], []

    def passes(role, alpha):
        asked.append((role, alpha))
        return (role, alpha) in passing

    def confirm(role, alpha):
        confirmed.append((role, alpha))
        return alpha if (role, alpha) in confirming else None

    found = blends_by_role(order, ALPHAS, passes, confirm)
    largest = {role: max((a for r, a in passing if r == role), default=None) for role in order}
    good = all((role, alpha) in confirming for role, alpha in largest.items())
    assert found == (largest if good else None)
    assert len(set(asked)) == len(asked)
    assert all(alpha == largest[role] for role, alpha in confirmed)  # no second choice on the confirming half
    assert all(alpha >= (largest[role] or 0) for role, alpha in asked)  # no smaller one than needed
