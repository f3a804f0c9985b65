"""Where a role fails, blends of it alone are chosen on one half of the items and judged on the other, by one engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.judging import blending, measuring
from cluster.judging.blending import Candidate, candidate_of
from cluster.judging.measuring import Examiner
from cluster.request import GenerationRequest, PinnedBase, RunSpec
from cluster.server.candidate_eval import ServerFailedError
from cluster.settings import Settings
from cluster.steps.records import TRAINER
from ledger.files import sha256_json
from ledger.home import Home
from ledger.records import EvalRecord
from ledger.roles import ROLES, Role
from tests.cluster.builders import gate_scores
from tests.cluster.test_steps import collected, planned, sha
from tests.ledger.builders import make_share
from trainers.evals.exam import Compared, Half, RolePlan
from trainers.models.adapter_set import AdapterSet

Asked = tuple[str, Role, float, Half | None]
"""(engine, role, alpha, half) of one question to the models."""


class Session:
    """Stands for the trainers: blends are empty folders, and answers are as `right` says."""

    def __init__(self, right: Callable[[Role, float, Half | None], int]) -> None:
        self.right, self.asked, self.alphas = right, list[Asked](), dict[str, float]()
        self.same_as: str | None = None
        self.corporate: Callable[[Role, float], int] = lambda role, alpha: 0

    def blend(self, parents: AdapterSet, children: AdapterSet, alpha: float, into: Path) -> AdapterSet:
        (role,) = children.shas
        name = self.same_as or sha256_json([role, alpha])
        (into / name).mkdir(parents=True, exist_ok=True)
        self.alphas[name] = alpha
        return AdapterSet(into, {role: name})

    def evaluate(self, plans: Any, compared: Compared, gen_id: int) -> list[EvalRecord]:
        return self.ask(TRAINER, plans, compared)

    def ask(self, engine: str, plans: Sequence[RolePlan], compared: Compared) -> list[EvalRecord]:
        found: list[EvalRecord] = []
        for plan in plans:
            half, alpha = plan.half, self.alphas.get(compared.child.shas[plan.role], 1.0)
            self.asked.append((engine, plan.role, alpha, half))
            n = 100 if half is None else 50
            *scores, style = gate_scores(plan.role, self.right(plan.role, alpha, half) * n // 100, n=n)
            found += [*scores, make_share(plan.role, "style_drift", self.corporate(plan.role, alpha), style.n)]
        return found


class SameItems(Examiner):
    """Asks everything of three plans without items; `Session` makes the answers up."""

    @cached_property
    def plans(self) -> list[RolePlan]:
        return [RolePlan(role, ()) for role in ROLES]

    @cached_property
    def learned(self) -> dict[int, AdapterSet]:
        return {}


@pytest.fixture
def judge_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Candidate]:
    home = Home(tmp_path).create()
    settings = Settings(eval={"everyday_items": 0})
    request = GenerationRequest(settings=settings, base=PinnedBase(source="tiny", sha=sha("a")), data=())
    spec = RunSpec(home, "main-g1-0", "main", 1, request, sha("c"))

    def take(session: Session, served: Callable[..., Any] | None = None, with_parent: bool = True) -> Candidate:
        monkeypatch.setattr(measuring, "engine_of", lambda spec: "vllm" if served else None)
        monkeypatch.setattr(measuring, "evaluate_served", served)
        monkeypatch.setattr(blending, "retire_candidate", lambda home, gen_id: None)
        examiner = SameItems(spec, cast(Any, None), cast(Any, session), collected(with_parent), planned())
        child = spec.published(dict.fromkeys(ROLES, sha("3")))
        return candidate_of(examiner, child, examiner.measured(child))

    return take


def value(candidate: Candidate, role: Role) -> tuple[float, int]:
    return next((e.value, e.n) for e in candidate.evals if (e.role, e.eval) == (role, "generalization"))


def test_a_blend_is_chosen_on_one_half_and_recorded_with_the_scores_of_the_other(
    judge_with: Callable[..., Candidate], tmp_path: Path
) -> None:
    def right(role: Role, alpha: float, half: Half | None) -> int:
        if role != "logical":
            return 96
        return {(1.0, None): 70, (0.75, "choose"): 80, (0.5, "choose"): 98, (0.5, "confirm"): 88}[alpha, half]

    session = Session(right)
    candidate = judge_with(session)
    assert candidate.judgement.accepted
    assert session.asked[len(ROLES) :] == [
        (TRAINER, "logical", 0.75, "choose"),
        (TRAINER, "logical", 0.5, "choose"),
        (TRAINER, "logical", 0.5, "confirm"),
    ]
    assert candidate.alphas == {"creative": 1.0, "logical": 0.5, "dialectical": 1.0}
    assert value(candidate, "logical") == (0.88, 50), "of the half that chose nothing"
    assert value(candidate, "creative") == (0.96, 100)
    assert {path.name for path in Home(tmp_path).adapters_dir.iterdir()} == {sha256_json(["logical", 0.5])}


def test_a_first_generation_is_blended_with_the_base(judge_with: Callable[..., Candidate]) -> None:
    session = Session(lambda role, alpha, half: 96 if role != "logical" or alpha == 0.75 else 70)
    candidate = judge_with(session, with_parent=False)
    assert candidate.judgement.accepted
    assert candidate.alphas == {"creative": 1.0, "logical": 0.75, "dialectical": 1.0}


def test_what_does_not_confirm_is_rejected_with_the_childs_own_scores(
    judge_with: Callable[..., Candidate], tmp_path: Path
) -> None:
    """A second choice would select on the confirming half."""
    session = Session(lambda role, alpha, half: {None: 70, "choose": 98, "confirm": 70}[half])
    candidate = judge_with(session)
    assert not candidate.judgement.accepted
    assert [asked[1:] for asked in session.asked[len(ROLES) :]] == [
        ("creative", 0.75, "choose"),
        ("creative", 0.75, "confirm"),
    ]
    assert set(candidate.alphas.values()) == {1.0}
    assert value(candidate, "creative") == (0.7, 100)
    assert list(Home(tmp_path).adapters_dir.iterdir()) == [], "blends that failed are not kept"


def test_a_voice_that_turned_corporate_is_not_blended_until_it_hardly_shows(
    judge_with: Callable[..., Candidate],
) -> None:
    session = Session(lambda role, alpha, half: 98)
    session.corporate = lambda role, alpha: round(20 * alpha) if role == "creative" else 0
    candidate = judge_with(session)
    assert candidate.judgement.failed_roles == ("creative",)
    assert len(session.asked) == len(ROLES), "a quarter of it would pass"


def test_a_blend_that_equals_an_adapter_of_the_home_does_not_take_it_away(
    judge_with: Callable[..., Candidate], tmp_path: Path
) -> None:
    """Where nothing was learned, every blend is the parent."""
    session = Session(lambda role, alpha, half: 70)
    session.same_as = sha("b")
    Home(tmp_path).create().adapter_dir(sha("b")).mkdir()
    assert not judge_with(session).judgement.accepted
    assert Home(tmp_path).adapter_dir(sha("b")).is_dir()


def test_blends_of_a_judgement_that_was_killed_are_not_left_behind(
    judge_with: Callable[..., Candidate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once published they looked like another's when the judgement was taken again."""
    adapters, remove = Home(tmp_path).adapters_dir, blending._remove
    monkeypatch.setattr(blending, "_remove", lambda adapter, aside: None)  # a kill comes before
    judge_with(Session(lambda role, alpha, half: 70))
    assert len(list(adapters.iterdir())) == 3
    monkeypatch.setattr(blending, "_remove", remove)
    judge_with(Session(lambda role, alpha, half: 70))
    assert list(adapters.iterdir()) == []


def test_a_blend_is_asked_of_the_engine_that_the_child_was_asked_of(judge_with: Callable[..., Candidate]) -> None:
    session = Session(lambda role, alpha, half: 70 if alpha == 1.0 else 98)

    def served(spec: RunSpec, engine: str, plans: Any, compared: Compared, parent_gen: int) -> Any:
        assert set(compared.child.shas) == set(ROLES), "a server serves whole generations"
        return session.ask("vllm", plans, compared)

    assert judge_with(session, served).judgement.accepted
    assert {engine for engine, *_ in session.asked} == {"vllm"}


def test_when_the_server_fails_at_a_blend_the_whole_judgement_is_taken_again(
    judge_with: Callable[..., Candidate],
) -> None:
    session = Session(lambda role, alpha, half: 70 if alpha == 1.0 else 98)

    def served(spec: RunSpec, engine: str, plans: Any, compared: Compared, parent_gen: int) -> Any:
        if plans[0].half is not None:
            raise ServerFailedError("the server could not measure G1: gone.")
        return session.ask("vllm", plans, compared)

    candidate = judge_with(session, served)
    assert candidate.judgement.accepted
    after = [asked for asked in session.asked if asked[0] == TRAINER]
    assert [asked[1:] for asked in after[: len(ROLES)]] == [(role, 1.0, None) for role in ROLES], "the child as well"
    assert len(after) == len(ROLES) + 2 * len(ROLES)
