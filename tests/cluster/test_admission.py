"""What cannot end in a verdict is refused before it is trained, by name and with what to do."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cluster.attempts import HopelessError
from cluster.settings import settings_of
from cluster.steps.admission import askable, check_exam
from curriculum.example import Example, make_example
from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import ROLES
from ledger.rules.gates import GateSettings
from tests.cluster.builders import even_numbers
from tests.trainers.test_evaluation import Scripted
from trainers.evals.closed import by_scoring, fewest_answers
from trainers.evals.plan import Material, plan_role
from trainers.evals.scoring import EvalSettings, ItemSet, evaluate_role, score_set

SETTINGS = EvalSettings(items=20, agl_items=14, extra_items=4)


def answered(answers: Sequence[str], count: int = 60, category: str = "imported") -> list[Example]:
    """Items of every role whose answers take turns."""
    return [
        make_example(
            role=role, stage="conversations", category=category, kind="hybrid", input=f"{category} review {n}?",
            output=answers[n % len(answers)], source="file/x",
        )
        for role in ROLES
        for n in range(count)
    ]  # fmt: skip


def test_two_answer_data_is_scored_by_its_whole_answer() -> None:
    """Yes and no, spam and ham: the commonest first data. Choosing among four needs four answers."""
    items = [item for item in answered(["positive", "very much so, yes"]) if item.role == "logical"]
    assert askable(items[:20], items[20:], 10) == items[:20]
    asked = by_scoring(items[:20], items[20:])
    assert (len(asked.whole), asked.choice, asked.answer_tokens) == (20, [], len("very much so, yes"))

    class AlwaysPositive(Scripted):
        def generate(self, voice: str, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
            self.room = max_new_tokens
            return ["positive" for _ in prompts]

    model = AlwaysPositive({})
    found = score_set(model, "logical", ItemSet(items[:20], 1, items[20:]), SETTINGS)
    assert (found.method, sum(found.passed)) == ("exact", 10)
    assert model.room >= len("very much so, yes"), "the longer label has room"


def test_labels_stay_closed_beside_open_answers() -> None:
    labels = [item for item in answered(["yes", "no"]) if item.role == "creative"]
    talk = [i for i in answered([f"a long answer {n}" for n in range(30)], category="talk") if i.role == "creative"]
    asked = by_scoring([*labels, *talk])
    assert (len(asked.whole), len(asked.choice), fewest_answers(asked)) == (60, 60, 30)


def test_few_long_answers_are_refused_at_admission() -> None:
    long = [f"{n}: " + "it depends on what you mean by that, and on the weather " * 2 for n in range(3)]
    items = answered(long)
    with pytest.raises(
        HopelessError, match=r"creative have too few different answers .* 3, .* needs 4.*Add more varied"
    ):
        askable(items[::5], items, 10)
    earlier = answered([f"earlier {n}" for n in range(3)], 3, "earlier")
    assert askable(items[::5], items, 10, lambda: earlier) == items[::5]
    four = answered([*long, "and a fourth"])
    assert askable(four[::5], four, 10, pytest.fail) == four[::5]


def test_an_answer_that_cannot_be_asked_waits_and_blocks_nothing() -> None:
    """Somebody's first liked answers, in a role that has learned nothing but puzzles."""
    puzzles, lessons = even_numbers(0, 60), answered(["a long answer about kettles and tea"], 1, "conversation")
    assert askable([*puzzles, *lessons], [], 10) == puzzles
    assert askable([*puzzles, *lessons], [], 60) == puzzles
    with pytest.raises(HopelessError, match=r"choose from: 1, .* needs 4"):
        askable([*puzzles, *lessons], [], 61)


def test_three_one_off_answers_are_no_closed_set() -> None:
    lessons = [item for item in answered(["one", "two", "three"], count=3) if item.role == "logical"]
    assert by_scoring(lessons).whole == []


def test_an_answer_that_only_one_question_has_is_no_wrong_one_to_it() -> None:
    items = [
        make_example(
            role="logical", stage="conversations", category="x", kind="hybrid", input="the same question",
            output=f"answer {n}", source="t",
        )
        for n in range(9)
    ]  # fmt: skip
    assert fewest_answers(by_scoring(items)) == 1


def exam(earlier: list[Example], trained: list[Example], holdout: list[Example]):
    return plan_role("logical", Material(holdout, earlier, trained), SETTINGS, 1)


def test_a_recall_set_that_comes_out_empty_is_refused_before_training() -> None:
    earlier, new = even_numbers(0, 30), even_numbers(100, 60)
    gates = GateSettings(min_items=10)
    check_exam([exam(earlier, [*new, *earlier[:30]], new)], gates)
    with pytest.raises(HopelessError, match="only 0 examples of earlier generations are left to ask logical"):
        check_exam([exam(earlier, [*new, *earlier], new)], gates)
    with pytest.raises(HopelessError, match="only 5 held-out examples are left to ask logical"):
        check_exam([exam(earlier, new, [item for item in new if item.role == "logical"][:5])], gates)


@pytest.mark.parametrize("count", [4, 5, 8, 24])
def test_sets_of_few_items_have_answers_enough_to_choose_from(count: int) -> None:
    """With four items of a recipe two equal answers among them ended the run after its training."""
    settings = SETTINGS.model_copy(update={"extra_items": count})
    for role in ROLES:
        plan = plan_role(role, Material(even_numbers(0, 60), None, []), settings, 1)
        scores = {score.eval: score for score in evaluate_role(Scripted({}), plan, 0, settings)}
        for name in ("role_understanding", "tool_syntax"):
            if plan.extras[name]:
                assert (scores[name].n, scores[name].method) == (len(plan.extras[name]), "choice")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[eval]\nitems = 50\n", r"eval.items = 50 is less than gates.min_items = 100.*set eval.items to 100"),
        ("[eval]\nextra_items = 3\n", "extra_items = 3.*needs 4"),
        (
            '[train]\nengine = "trl"\nbatch_size = 6\ngradient_accumulation_steps = 4\n',
            "batch_size = 6 cannot be cut into train.gradient_accumulation_steps = 4",
        ),
    ],
)
def test_settings_under_which_no_generation_can_pass_are_refused_when_they_are_read(tmp_path, text, complaint) -> None:
    home = Home(tmp_path).create()
    home.settings_file.write_text(f'profile = "tiny"\n{text}')
    with pytest.raises(LunaError, match=complaint):
        settings_of(home)
    home.settings_file.write_text('profile = "tiny"\n')
    settings_of(home)
