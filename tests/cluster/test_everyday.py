"""What the untouched base gets right is asked once a base and kept beside its weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.judging import everyday
from cluster.judging.everyday import FILE, everyday_of
from cluster.request import GenerationRequest, PinnedBase, RunSpec
from cluster.settings import Settings
from curriculum.everyday import EverydayQuestion, questions
from ledger.home import Home
from ledger.roles import ROLES, Role
from tests.cluster.test_steps import sha


class Session:
    """Stands for the trainers: the base gets every third question right."""

    times = 0

    def everyday(self, pool: Sequence[EverydayQuestion]) -> dict[Role, list[EverydayQuestion]]:
        self.times += 1
        return {role: list(pool[::3]) for role in ROLES}


def a_spec(root: Path, items: int = 120) -> RunSpec:
    settings = Settings(eval={"everyday_items": items})
    request = GenerationRequest(settings=settings, base=PinnedBase(source="tiny", sha=sha("a")), data=())
    spec = RunSpec(Home(root).create(), "main-g1-0", "main", 1, request, sha("c"))
    spec.base.path.mkdir(exist_ok=True)
    return spec


def test_the_base_is_asked_once_until_the_pool_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, session = a_spec(tmp_path), cast(Any, Session())
    first = everyday_of(spec, session)
    assert first == {role: list(questions()[::3]) for role in ROLES}
    assert everyday_of(spec, session) == first
    assert session.times == 1
    assert json.loads((spec.base.path / FILE).read_text())["right"]["logical"][0] == questions()[0].id
    monkeypatch.setattr(everyday, "questions", lambda: questions()[1:])
    assert everyday_of(spec, session)["logical"][0] == questions()[1]
    assert session.times == 2


@pytest.mark.parametrize("damaged", ["{", "[]", "7", "{}", "no role", "no list", "unknown question"])
def test_a_damaged_list_is_made_again(tmp_path: Path, damaged: str) -> None:
    spec, session = a_spec(tmp_path), cast(Any, Session())
    whole = everyday_of(spec, session)
    file = spec.base.path / FILE
    content = json.loads(file.read_text())
    right = {"no role": {}, "no list": None, "unknown question": {**content["right"], "logical": ["0" * 16]}}
    file.write_text(json.dumps({**content, "right": right[damaged]}) if damaged in right else damaged)
    assert everyday_of(spec, session) == whole
    assert session.times == 2
    assert everyday_of(spec, session) == whole
    assert session.times == 2, "the file is whole again"


def test_none_is_made_where_none_is_asked(tmp_path: Path) -> None:
    assert everyday_of(a_spec(tmp_path, items=0), cast(Any, Session())) == {}
