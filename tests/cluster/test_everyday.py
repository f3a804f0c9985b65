"""What the untouched base gets right is asked once a base and kept beside its weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.request import GenerationRequest, PinnedBase, RunSpec
from cluster.settings import Settings
from cluster.steps import everyday
from cluster.steps.everyday import FILE, Everyday, everyday_of
from curriculum.everyday import EverydayQuestion, Known, is_right, questions
from ledger.home import Home
from ledger.roles import ROLES, Role
from tests.cluster.test_steps import sha


class Session:
    """Stands for the trainers: the base gets every third question right, of the logical role only a few."""

    times = 0

    def everyday(self, pool: Sequence[EverydayQuestion], most: int) -> dict[Role, list[Known]]:
        self.times += 1
        known = [Known(one, f"It is {one.accepted[0]}. And more of", n < 120) for n, one in enumerate(pool[::3])][:most]
        return {role: known[:130] if role == "logical" else known for role in ROLES}


def a_spec(root: Path, items: int = 120) -> RunSpec:
    settings = Settings(eval={"everyday_items": items})
    request = GenerationRequest(settings=settings, base=PinnedBase(source="tiny", sha=sha("a")), data=())
    spec = RunSpec(Home(root).create(), "main-g1-0", "main", 1, request, sha("c"))
    spec.base.path.mkdir(exist_ok=True)
    return spec


def test_the_base_is_asked_once_until_the_pool_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, session = a_spec(tmp_path), cast(Any, Session())
    first = everyday_of(spec, session)
    assert first.asked == {role: list(questions()[::3][:120]) for role in ROLES}
    assert everyday_of(spec, session) == first
    assert session.times == 1
    assert json.loads((spec.base.path / FILE).read_text())["right"]["logical"][0][0] == questions()[0].id
    monkeypatch.setattr(everyday, "questions", lambda: questions()[1:])
    assert everyday_of(spec, session).asked["logical"][0] == questions()[1]
    assert session.times == 2


@pytest.mark.parametrize("damaged", ["{", "[]", "7", "{}", "no role", "no list", "unknown question"])
def test_a_damaged_list_is_made_again(tmp_path: Path, damaged: str) -> None:
    spec, session = a_spec(tmp_path), cast(Any, Session())
    whole = everyday_of(spec, session)
    file = spec.base.path / FILE
    content = json.loads(file.read_text())
    right = {
        "no role": {},
        "no list": None,
        "unknown question": {**content["right"], "logical": [["0" * 16, "Yes.", True]]},
    }
    file.write_text(json.dumps({**content, "right": right[damaged]}) if damaged in right else damaged)
    assert everyday_of(spec, session) == whole
    assert session.times == 2
    assert everyday_of(spec, session) == whole
    assert session.times == 2, "the file is whole again"


def test_none_is_made_where_none_is_asked(tmp_path: Path) -> None:
    assert everyday_of(a_spec(tmp_path, items=0), cast(Any, Session())) == Everyday()


def test_what_is_rehearsed_is_known_and_is_not_asked(tmp_path: Path) -> None:
    found = everyday_of(a_spec(tmp_path), cast(Any, Session()))
    by_question = {question.question: question for question in questions()}
    for role in ROLES:
        own = [example for example in found.rehearsed if example.role == role]
        assert len(own) == len(questions()[::3]) - 120, "what another role's prompt brings out the base knows as well"
        assert not {example.input for example in own} & {one.question for one in found.asked[role]}
        assert all(is_right(by_question[e.input], e.output) and e.output.endswith(".") for e in own)


def test_a_base_that_knows_next_to_nothing_rehearses_nothing(tmp_path: Path) -> None:
    class Ignorant(Session):
        def everyday(self, pool: Sequence[EverydayQuestion], most: int) -> dict[Role, list[Known]]:
            return {role: own[:19] for role, own in super().everyday(pool, most).items()}

    assert everyday_of(a_spec(tmp_path), cast(Any, Ignorant())).rehearsed == ()
