"""Which answers must come whole."""

from __future__ import annotations

from curriculum.example import make_example
from tests.trainers.builders import sums
from tests.trainers.evals.builders import open_items
from trainers.evals.closed import closed_categories, label_bytes


def answered(answers, count=60, category="imported"):
    """Items whose answers take turns."""
    return [
        make_example(
            role="logical", stage="conversations", category=category, kind="hybrid", input=f"{category} review {n}?",
            output=answers[n % len(answers)], source="file/x",
        )
        for n in range(count)
    ]  # fmt: skip


def test_two_answer_data_is_closed_and_its_longer_label_has_room():
    """Yes and no, spam and ham: the commonest first data."""
    items = answered(["positive", "very much so, yes"])
    assert closed_categories(items) == {"imported"}
    assert label_bytes(items, {"imported"}) == len("very much so, yes")


def test_the_same_answer_to_everything_is_no_closed_set():
    """It would come right every time, and whether it fits its question would never be asked."""
    assert closed_categories(answered(["yes"])) == frozenset()


def test_labels_stay_closed_beside_open_answers_and_puzzles():
    items = [*answered(["yes", "no"]), *open_items(30), *sums("logical", 3)]
    assert closed_categories(items) == {"imported", "agl/comparison"}


def test_three_one_off_answers_and_few_long_ones_are_no_closed_set():
    assert closed_categories(answered(["one", "two", "three"], count=3)) == frozenset()
    assert closed_categories(
        answered([f"{n}: it depends on what you mean by that, and on the weather" for n in "ab"])
    ) == (frozenset())
