"""What cannot end in a verdict is refused before it is trained, by name and with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.attempts import HopelessError
from cluster.settings import settings_of
from cluster.steps.admission import check_exam
from curriculum.example import Example
from ledger.errors import LunaError
from ledger.home import Home
from ledger.rules.gates import GateSettings
from tests.cluster.builders import answered, even_numbers
from trainers.evals.exam import RolePlan
from trainers.evals.plan import Material, plan_role
from trainers.evals.settings import EvalSettings
from trainers.models.adapter_set import AdapterSet

SETTINGS = EvalSettings(items=60, agl_items=14, extra_items=4)
GATES = GateSettings(min_items=10)


def exam(earlier: list[Example], trained: list[Example], holdout: list[Example]) -> RolePlan:
    return plan_role("logical", Material(holdout, {0: earlier}, trained), SETTINGS, 1)


def logical(items: list[Example], count: int) -> list[Example]:
    return [item for item in items if item.role == "logical"][:count]


def test_a_recall_set_that_comes_out_empty_is_refused_before_training() -> None:
    earlier, new = even_numbers(0, 30), even_numbers(100, 60)
    check_exam([exam(earlier, [*new, *earlier[:30]], new)], {}, GATES)
    with pytest.raises(HopelessError, match="only 0 examples of earlier generations are left to ask logical"):
        check_exam([exam(earlier, [*new, *earlier], new)], {}, GATES)
    with pytest.raises(HopelessError, match="only 5 held-out examples are left to ask logical"):
        check_exam([exam(earlier, new, logical(new, 5))], {}, GATES)


def test_too_few_questions_of_one_kind_to_tell_what_was_learned_are_refused() -> None:
    earlier, closed = even_numbers(0, 30), even_numbers(100, 60)
    talk = answered([f"a long answer {n}" for n in range(60)], category="talk")
    mixed = [*logical(closed, 15), *logical(talk, 12)]
    with pytest.raises(HopelessError, match=r"logical has 15 .* closed answers and 12 with open ones.* takes 20"):
        check_exam([exam(earlier, closed, mixed)], {}, GATES)
    check_exam([exam(earlier, closed, [*mixed, *logical(talk, 20)])], {}, GATES)


def test_whatever_the_answers_are_they_can_be_asked() -> None:
    """Few different open answers ended a run, as long as an answer was chosen among four."""
    long = [f"{n}: " + "it depends on what you mean by that, and on the weather " * 2 for n in range(3)]
    items = answered(long)
    plan = exam(even_numbers(0, 30), items, logical(items, 30))
    check_exam([plan], {}, GATES)
    assert plan.generalization[0].category not in plan.closed


def test_an_earlier_generation_without_its_adapter_is_named_before_training(tmp_path: Path) -> None:
    plan = exam(even_numbers(0, 30), [], even_numbers(100, 60))
    learned = {0: AdapterSet(tmp_path, {"logical": "a" * 64})}
    with pytest.raises(LunaError, match=r"against G0, whose logical adapter .* is missing.*luna reproduce G0"):
        check_exam([plan], learned, GATES)
    (tmp_path / ("a" * 64)).mkdir()
    check_exam([plan], learned, GATES)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[eval]\nitems = 50\n", r"eval.items = 50 is less than gates.min_items = 100.*set eval.items to 100"),
        (
            '[train]\nengine = "trl"\nbatch_size = 6\ngradient_accumulation_steps = 4\n',
            "batch_size = 6 cannot be cut into train.gradient_accumulation_steps = 4",
        ),
    ],
)
def test_settings_under_which_no_generation_can_pass_are_refused_when_they_are_read(
    tmp_path: Path, text: str, complaint: str
) -> None:
    home = Home(tmp_path).create()
    home.settings_file.write_text(f'profile = "tiny"\n{text}')
    with pytest.raises(LunaError, match=complaint):
        settings_of(home)
    home.settings_file.write_text('profile = "tiny"\n')
    settings_of(home)
