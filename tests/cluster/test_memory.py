"""Memory that runs out in a step: the step is cut in more micro-batches, and the record says from where on."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from cluster.trainer_actor import TrainerActor
from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import ROLES
from tests.trainers.builders import CPU, LORA, make_job, tiny_base
from tests.trainers.builders import make_home as bare_home
from trainers.config import TrainSettings
from trainers.fused.engine import FusedEngine
from trainers.job import StepTooLarge, TrioJob, TrioOutcome
from trainers.lean.model import LeanModel
from trainers.reference.engine import TrlEngine

pytestmark = pytest.mark.slow

SETTINGS = TrainSettings(dtype="float32", threads=1)


class Room:
    """Memory for so many rows in one pass of a model; more, and torch's own allocator refuses."""

    def __init__(self, rows: int) -> None:
        self.rows, self.whole = rows, LeanModel.log_probs

    def log_probs(self, model: LeanModel, batch: Any, *others: Any) -> torch.Tensor:
        if len(batch.row_slots) > self.rows:
            torch.empty(1 << 50)
        return self.whole(model, batch, *others)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return bare_home(tmp_path_factory.mktemp("memory"))


@pytest.fixture(scope="module")
def actor(home: Home) -> TrainerActor:
    made = TrainerActor()
    made._engine = FusedEngine(tiny_base(home), SETTINGS, LORA, CPU)
    return made


def have_room(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    room = Room(rows)
    monkeypatch.setattr(LeanModel, "log_probs", lambda *arguments: room.log_probs(*arguments))


def trained(actor: TrainerActor, job: TrioJob) -> tuple[TrioOutcome, TrioJob]:
    """As the pool does: asked again with what each refusal says."""
    while True:
        try:
            return actor.train(job), job
        except StepTooLarge as error:
            job = job.cut_smaller(error)


def shas(outcome: TrioOutcome) -> dict[str, str]:
    return {role: one.adapter_sha for role, one in outcome.roles.items()}


def test_a_step_that_does_not_fit_is_halved_until_it_does_and_learns_the_same(
    home: Home, actor: TrainerActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = trained(actor, make_job(home, run="fits"))
    with monkeypatch.context() as patched:
        have_room(patched, 4)
        found, job = trained(actor, make_job(home, run="tight"))
    assert job.micro_batches == ((0, 4),), "12 rows a step"
    for role in ROLES:
        assert found.roles[role].loss_end == pytest.approx(whole.roles[role].loss_end, rel=1e-3)
    again, _ = trained(actor, dataclasses.replace(job, run_dir=str(home.run_dir("again"))))
    assert shas(again) == shas(found), "the record says all that the bytes depend on"


def test_it_goes_on_from_the_checkpoint_and_only_later_steps_are_cut_smaller(
    home: Home, actor: TrainerActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program takes memory in the middle of the run."""
    job, seen = make_job(home, run="later", steps=8, checkpoint_every_steps=2), []
    with monkeypatch.context() as patched:

        def note(progress: Any) -> None:
            seen.append(progress.step)
            if progress.step == 5:
                have_room(patched, 6)

        patched.setattr(actor, "_note", note)
        found, job = trained(actor, job)
    assert (job.micro_batches, seen) == (((4, 2),), [1, 2, 3, 4, 5, 5, 6, 7, 8]), "the checkpoint of step 4"
    again, _ = trained(actor, dataclasses.replace(job, run_dir=str(home.run_dir("later again"))))
    assert shas(again) == shas(found)


def test_what_cannot_be_cut_smaller_ends_with_what_to_do(
    home: Home, actor: TrainerActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_room(monkeypatch, 0)
    with pytest.raises(LunaError, match=r"memory ran out .*raise \[train\] gradient_accumulation_steps") as caught:
        trained(actor, make_job(home, run="none"))
    assert not isinstance(caught.value, StepTooLarge)


def test_the_trl_engine_begins_again_in_more_micro_batches_as_far_as_its_batches_can_be_halved(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import SFTTrainer

    class Tight(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *others: Any) -> Any:
            if len(inputs["input_ids"]) > room:
                torch.empty(1 << 50)
            return super().training_step(model, inputs, *others)

    monkeypatch.setattr("trl.SFTTrainer", Tight)
    settings: dict[str, Any] = {"least_loss": None, "engine": "trl", "threads": 1}
    room, actor = 1, TrainerActor()
    actor._engine = TrlEngine(tiny_base(home), SETTINGS, LORA, CPU)
    found, job = trained(actor, make_job(home, run="trl", steps=2, roles=["logical"], **settings))
    assert job.micro_batches == ((0, 4),)
    again, _ = trained(actor, dataclasses.replace(job, run_dir=str(home.run_dir("trl again"))))
    assert shas(again) == shas(found)
    room = 0
    with pytest.raises(LunaError, match=r"memory ran out .*raise \[train\] gradient_accumulation_steps"):
        trained(actor, make_job(home, run="trl none", steps=2, roles=["logical"], **settings))


def test_the_error_travels_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(StepTooLarge(5, 4, "no room")))
    assert (error.step, error.parts) == (5, 4)
    assert str(error) == ("memory ran out at step 6 (no room); it is to be cut in 4 micro-batches and trained again.")
