"""What the steps of a generation hand each other, and what becomes of it in the ledger and the log."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.judging.blending import Candidate
from cluster.judging.rows import rows_of
from cluster.request import GenerationRequest, PinnedBase, RunSpec
from cluster.run_log import run_log
from cluster.settings import Settings
from cluster.steps.consequences import recorded_verdict
from cluster.steps.records import ChannelFiles, Collected, Judged, Parent, Planned, Trained, TrainedRole, TrainingSet
from cluster.steps.training import TrainingFiles, trio_job
from ledger.files import canonical_json
from ledger.home import Home
from ledger.logs import log_context
from ledger.records import EvalRecord, Stop
from ledger.roles import ROLES, Role
from ledger.rules.gates import Judgement
from tests.ledger.builders import add_generation, by_role, make_ledger, make_trio
from trainers.config import TrainSettings
from trainers.job import EngineInfo, RoleOutcome

AT = "2026-03-01T12:00:00Z"


def sha(letter: str) -> str:
    return letter * 64


def a_spec(root: Path) -> RunSpec:
    request = GenerationRequest(settings=Settings(), base=PinnedBase(source="tiny", sha=sha("a")), data=())
    return RunSpec(Home(root), "main-g1-0", "main", 1, request, sha("c"))


def collected(with_parent: bool = True) -> Collected:
    parent = Parent(gen_id=0, shas=dict.fromkeys(ROLES, sha("b"))) if with_parent else None
    return Collected(parent=parent, collected_sha=sha("4"), n_new=8, n_held_out=2)


def planned() -> Planned:
    counts = dict.fromkeys(ROLES, 4)
    files = ChannelFiles(pref_sha=sha("2"))
    examples = TrainingSet(
        train_sha=sha("1"), delta_sha=sha("e"), holdout_sha=sha("f"), steps=counts, n_delta=counts, n_replay=counts
    )
    return Planned(examples=examples, channels=files)


def trained() -> Trained:
    info = EngineInfo("fused", "cpu", "float32", 2, {"torch": "2"})
    roles = {
        role: TrainedRole(
            outcome=RoleOutcome(role, sha("3"), 5, 40, 2.0, 1.0), engine=info, placement="+".join(ROLES), seconds=90.0
        )
        for role in ROLES
    }
    return Trained(roles=roles, trained_at=AT)


def candidate(spec: RunSpec, alpha: float) -> Candidate:
    """One whose logical role is a blend."""
    evals = [
        EvalRecord(gen_id=1, role=role, eval=name, method="exact", value=0.5, n=100, low=0.4, high=0.6)
        for role in ROLES
        for name in ("recall", "generalization", "style_drift")
    ]
    alphas: dict[Role, float] = {"creative": 1.0, "logical": alpha, "dialectical": 1.0}
    shas = {role: sha("3") if one == 1.0 else sha("5") for role, one in alphas.items()}
    return Candidate(spec.published(shas), alphas, evals, Judgement(()))


def test_records_come_back_from_the_journal_as_they_were() -> None:
    for record in (collected(), collected(with_parent=False), planned(), trained()):
        plain = record.model_dump(mode="json")
        assert canonical_json(plain)
        assert type(record).model_validate(plain) == record


def test_a_row_says_what_was_collected_planned_trained_and_judged(tmp_path: Path) -> None:
    spec = a_spec(tmp_path)
    row = rows_of(spec, collected(), planned(), trained(), candidate(spec, 1.0))[0]
    assert (row.gen_id, row.parent_gen, row.parent_sha, row.child_sha) == (1, 0, sha("b"), sha("3"))
    assert (row.data_delta_sha, row.holdout_sha, row.train_sha, row.pref_sha) == (
        sha("e"),
        sha("f"),
        sha("1"),
        sha("2"),
    )
    assert (row.collected_sha, row.n_delta, row.n_replay) == (sha("4"), 4, 4)
    assert (row.walltime_min, row.loss_start, row.engine, row.reason) == (1.5, 2.0, "fused", "all gates passed")


def test_each_row_has_its_own_alpha_and_all_say_which_role_is_a_blend(tmp_path: Path) -> None:
    spec = a_spec(tmp_path)
    rows = rows_of(spec, collected(), planned(), trained(), candidate(spec, 0.5))
    assert {row.reason for row in rows} == {"all gates passed, logical at alpha 0.5"}
    assert {row.role: (row.alpha, row.child_sha) for row in rows} == {
        "creative": (1.0, sha("3")),
        "logical": (0.5, sha("5")),
        "dialectical": (1.0, sha("3")),
    }
    assert {row.trained_sha for row in rows} == {sha("3")}


def test_without_a_parent_a_row_descends_from_the_base(tmp_path: Path) -> None:
    spec = a_spec(tmp_path)
    row = rows_of(spec, collected(with_parent=False), planned(), trained(), candidate(spec, 1.0))[0]
    assert (row.parent_gen, row.parent_sha) == (None, sha("a"))


def test_a_generation_with_a_parent_trains_at_its_share_of_the_rate_and_its_row_says_so(tmp_path: Path) -> None:
    spec, files = a_spec(tmp_path), TrainingFiles(tmp_path / "rows", dict.fromkeys(ROLES, 4))
    settings = spec.settings.model_copy(update={"train": TrainSettings(lr=1e-3, child_lr_share=0.25)})
    spec = replace(spec, request=spec.request.model_copy(update={"settings": settings}))
    for with_parent, rate in ((False, 1e-3), (True, 2.5e-4)):
        found = collected(with_parent)
        parents = {role: found.parent_shas.get(role) for role in ROLES}
        job = trio_job(settings, files, parents, tmp_path, tmp_path)
        rows = rows_of(spec, found, planned(), trained(), candidate(spec, 1.0))
        assert {job.train.lr_of(role) for role in ROLES} == {row.lr for row in rows} == {rate}
    each = TrainSettings(lr=dict(zip(ROLES, (1e-3, 2e-3, 3e-3), strict=True)), child_lr_share=0.5).of_child()
    assert [each.lr_of(role) for role in ROLES] == [5e-4, 1e-3, 1.5e-3]


def test_a_verdict_that_is_recorded_is_told_again_with_its_stop(tmp_path: Path) -> None:
    spec = a_spec(tmp_path)
    with make_ledger(tmp_path) as ledger:
        add_generation(ledger, 0, None)
        assert recorded_verdict(spec, ledger) is None
        parents = by_role(ledger.generation(0))
        rows = make_trio(1, parents, verdict="rejected", reason="logical recall: 0.1", alpha=0.5)
        ledger.record_judgement(rows, [], None, Stop(reason="no gain, and it drifts", data_delta_shas=(sha("e"),)))
        told = recorded_verdict(spec, ledger)
        assert told == Judged(
            verdict="rejected",
            reason="logical recall: 0.1",
            alphas=dict.fromkeys(ROLES, 0.5),
            stopped="no gain, and it drifts",
        )
        add_generation(ledger, 2, 0)
        later = recorded_verdict(spec, ledger)
        assert later is not None
        assert later.verdict == "rejected"


def test_a_request_recorded_with_the_bases_folder_is_read() -> None:
    base = {"source": "tiny", "sha": sha("a"), "path": "/somewhere/else"}
    recorded = {"settings": Settings().model_dump(mode="json"), "base": base, "data": [], "preferences": "", "note": ""}
    request = GenerationRequest.from_record(recorded)
    assert request.base == PinnedBase(source="tiny", sha=sha("a"))
    assert "path" not in request.model_dump(mode="json")["base"]


def test_a_runs_log_names_generation_and_role(tmp_path: Path) -> None:
    lines: list[str] = []
    logger = logging.getLogger("trainers.somewhere")
    with run_log(tmp_path / "run", 3, lines.append):
        logger.info("begun")
        with log_context(role="logical"):
            logger.info("held back")
    logger.info("later")
    assert lines == ["begun", "logical: held back"]
    written = (tmp_path / "run" / "run.log").read_text().splitlines()
    assert [line.split(" ", 3)[3] for line in written] == [
        "trainers.somewhere G3: begun",
        "trainers.somewhere G3 logical: held back",
    ]


def test_a_crash_leaves_its_traceback_in_the_runs_log(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), run_log(tmp_path, 0, lambda line: None):
        print(1 / 0)
    assert "ZeroDivisionError" in (tmp_path / "run.log").read_text()
