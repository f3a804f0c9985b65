"""Pure puzzles: counts, labels, spellings, determinism."""

import re
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.agl.families import FAMILIES
from curriculum.agl.puzzles import (
    REFERENCE_COUNTS,
    REFERENCE_TOTAL,
    distinct_puzzles,
    generate_puzzles,
    plain_puzzles,
    puzzle_examples,
)
from curriculum.agl.solve import solve
from curriculum.example import scoring_of
from ledger.errors import LunaError


@pytest.fixture(scope="module")
def reference():
    return generate_puzzles(seed=5)


def by_family(puzzles):
    families = defaultdict(list)
    for family, _, text, label in puzzles:
        families[family].append((text, label))
    return families


def test_the_reference_set_has_fourteen_families_and_6650_draws():
    assert len(REFERENCE_COUNTS) == 14
    assert REFERENCE_TOTAL == 6650
    assert set(FAMILIES) == set(REFERENCE_COUNTS)


def test_repeats_are_gone_and_most_puzzles_stay(reference):
    texts = [text for _, _, text, _ in reference]
    assert len(set(texts)) == len(texts)
    assert 5800 <= len(texts) <= REFERENCE_TOTAL


def test_every_label_is_what_the_solver_reads_from_the_text(reference):
    assert [text for _, _, text, label in reference if solve(text) != label] == []


def test_equal_seeds_give_equal_puzzles_and_other_seeds_others():
    assert generate_puzzles(1, 500) == generate_puzzles(1, 500)
    assert generate_puzzles(1, 500) != generate_puzzles(2, 500)


def test_both_spellings_occur(reference):
    lines = sum("\n" in text for _, _, text, _ in reference)
    one_line = sum("\n" not in text and not text.startswith("?") for _, _, text, _ in reference)
    assert lines > 2000
    assert one_line > 1000


def test_labels_are_balanced_in_every_family(reference):
    for family, puzzles in by_family(reference).items():
        counts = Counter(label for _, label in puzzles)
        assert max(counts.values()) / len(puzzles) < 0.6, (family, counts)


def test_chains_have_two_to_six_steps_in_equal_parts():
    puzzles = [text for family, _, text, _ in distinct_puzzles(3, 2000) if family == "chain"]
    steps = Counter(text.count("→") for text in puzzles)
    assert set(steps) == {2, 3, 4, 5, 6}
    assert max(steps.values()) - min(steps.values()) <= 1


# Labels once more, by brute force over the text, with nothing of the package.


def test_membership_labels_by_brute_force(reference):
    for text, label in by_family(reference)["membership"]:
        numbers = [int(number) for number in re.findall(r"\d+", text)]
        members, asked = numbers[:-1], numbers[-1]
        if "\n" not in text:
            asked = int(re.search(r"\?(\d+)", text)[1])
        assert 3 <= len(members) <= 7
        assert set(members) <= set(range(1, 20))
        assert (label == "●") == ((asked in members) != ("∉" in text))


def test_quantifier_labels_by_brute_force(reference):
    families = by_family(reference)
    for family, quantifier in (("existential", any), ("universal", all)):
        checked = 0
        for text, label in families[family]:
            if match := re.fullmatch(r"S ?= ?\{([\d,]+)\}\n?\?.x∈S: ?x([<>])(\d+)", text):
                members, bound = [int(item) for item in match[1].split(",")], int(match[3])
                decided = [x > bound if match[2] == ">" else x < bound for x in members]
                assert (label == "●") == quantifier(decided), text
                checked += 1
        assert checked > 200


def test_comparison_and_order_labels_by_brute_force(reference):
    signs = {"<": "<", ">": ">", "=": "==", "≤": "<=", "≥": ">="}
    families = by_family(reference)
    for text, label in families["comparison"] + families["transitive"]:
        a, sign, b = re.search(r"\?(\d+)(.)(\d+)", text).groups()
        a, b = int(a), int(b)
        expected = {"<": a < b, ">": a > b, "=": a == b, "≤": a <= b, "≥": a >= b}[sign]
        assert sign in signs
        assert (label == "●") == expected


def test_chess_labels_by_brute_force(reference):
    board = {f"{file}{rank}" for file in "abcdefgh" for rank in range(1, 9)}
    for text, label in by_family(reference)["chess"]:
        square = text.split(":")[1]
        assert (label == "●") == ((square in board) != text.startswith("?¬"))


def test_connective_labels_by_brute_force(reference):
    """Every completion of ◑ by true and false is tried; the label is ◑ exactly if they disagree."""
    rules = {"conjunction": min, "disjunction": max, "biconditional": lambda pair: pair[0] == pair[1]}
    families = by_family(reference)
    for family, rule in rules.items():
        for text, label in families[family]:
            match = re.fullmatch(r"(\w): (.)\n(\w): (.)\n\?(\w).(\w)", text)
            if match is None:
                continue
            options = {"●": [True], "⊥": [False], "◑": [True, False]}
            outcomes = {bool(rule((a, b))) for a in options[match[2]] for b in options[match[4]]}
            assert label == ("◑" if len(outcomes) == 2 else "●" if True in outcomes else "⊥"), text


@given(st.integers(1, 1500), st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_exactly_the_asked_number_of_different_puzzles(total, seed):
    puzzles = distinct_puzzles(seed, total)
    assert len(puzzles) == len({text for _, _, text, _ in puzzles}) == total


def test_a_large_total_keeps_the_proportions_of_the_families_that_are_not_exhausted():
    counts = Counter(family for family, *_ in distinct_puzzles(0, 20_000))
    assert counts["chess"] == 320
    assert counts["modus_ponens"] / counts["conjunction"] == pytest.approx(800 / 500, rel=0.01)


def test_a_small_set_is_the_beginning_of_a_family_in_a_larger_one():
    small = {text for _, _, text, _ in distinct_puzzles(4, 200)}
    assert small <= {text for _, _, text, _ in distinct_puzzles(4, 2000)}


def test_a_negative_total_is_refused():
    with pytest.raises(LunaError, match="-1"):
        distinct_puzzles(0, -1)


def test_puzzles_become_pure_closed_examples(reference):
    examples = puzzle_examples(reference[:50], "logical")
    assert {example.kind for example in examples} == {"pure"}
    assert {example.stage for example in examples} == {"fundamentals"}
    assert all(example.category.startswith("agl/") for example in examples)
    assert {scoring_of(example) for example in examples} == {"exact"}


def test_plain_puzzles_have_the_reference_spelling_and_right_labels():
    puzzles = plain_puzzles(4, dict.fromkeys(FAMILIES, 40))
    counts = {family: sum(puzzle[0] == family for puzzle in puzzles) for family in FAMILIES}
    assert counts == dict.fromkeys(FAMILIES, 40)
    assert len({puzzle[2] for puzzle in puzzles}) == len(puzzles)
    for family, _, text, label in puzzles:
        assert solve(text) == label
        if family in ("modus_ponens", "modus_tollens", "conjunction", "disjunction", "biconditional"):
            assert text.count("\n") == 2
            assert not text.splitlines()[2].startswith("?¬")
        if family == "chess":
            assert text.startswith("?valid:")
        if family == "identity":
            assert len(text) == 4
    assert plain_puzzles(4, {"chess": 10_000}) == plain_puzzles(4, {"chess": 500}), "160 squares and that is all"
