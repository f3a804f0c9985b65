"""Which card trained is a fact of the record, and a checkpoint of another card is not taken over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jobs.generation.reproduce import other_card, refuse_a_groups
from ledger.errors import LunaError
from tests.ledger.builders import make_row
from trainers.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from trainers.config import LoraSettings, TrainSettings
from trainers.driver import Card, amd, nvidia
from trainers.job import EngineInfo, TrioJob
from trainers.runtime import card_of

ON_CPU = EngineInfo("fused", "cpu", "float32", 2, {"torch": "2.13.0"})
CARD = Card("NVIDIA H200", "9.0", "CUDA 13.0", "580.159.04")
H200 = replace(ON_CPU, device="cuda", card=CARD)
RTX = replace(H200, card=replace(CARD, name="NVIDIA GeForce RTX 4090", capability="8.9"))


@pytest.fixture
def job(tmp_path: Path) -> TrioJob:
    (tmp_path / "rows.parquet").write_bytes(b"rows")
    return TrioJob(
        roles=("logical",), parents={"logical": None}, train_file=str(tmp_path / "rows.parquet"),
        role_steps={"logical": 1}, adapters_dir=str(tmp_path), run_dir=str(tmp_path / "run"), seed=1,
        train=TrainSettings(), lora=LoraSettings(),
    )  # fmt: skip


def test_a_checkpoint_of_another_card_is_refused(job: TrioJob) -> None:
    folder = Path(job.run_dir)
    save_checkpoint(folder, 5, {"master": torch.zeros(2)}, {"fingerprint": fingerprint(job, H200)})
    assert load_checkpoint(folder, fingerprint(job, H200)) is not None
    with pytest.raises(LunaError, match="card differ"):
        load_checkpoint(folder, fingerprint(job, RTX))


def test_a_newer_driver_takes_a_checkpoint_over(job: TrioJob) -> None:
    assert fingerprint(job, replace(H200, card=replace(CARD, driver="590.10"))) == fingerprint(job, H200)


def test_another_toolkit_does_not(job: TrioJob) -> None:
    assert fingerprint(job, replace(H200, card=replace(CARD, toolkit="CUDA 12.6"))) != fingerprint(job, H200)


def test_reproducing_says_that_the_card_differs() -> None:
    rows = [make_row(device="cuda", gpu=str(CARD))]
    assert other_card(rows, H200) == ""
    told = other_card(rows, RTX)
    assert "NVIDIA H200, 9.0, CUDA 13.0, driver 580.159.04" in told
    assert "RTX 4090" in told
    assert "this is cpu" in other_card(rows, ON_CPU)


def test_an_older_row_that_names_no_card_is_not_said_to_differ() -> None:
    assert other_card([make_row(device="cuda")], H200) == ""
    assert other_card([make_row(device="cpu")], ON_CPU) == ""


def test_a_cpu_has_no_card() -> None:
    assert card_of(torch.device("cpu")) is None


def test_the_drivers_files_are_read(tmp_path: Path) -> None:
    nvidia_files = tmp_path / "proc" / "driver" / "nvidia"
    (nvidia_files / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (nvidia_files / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\nGCC version: 13\n"
    )
    nodes = tmp_path / "sys" / "class" / "kfd" / "kfd" / "topology" / "nodes"
    for number, (simds, vendor) in enumerate([(0, 0), (64, 4098), (64, 4098), (80, 4318)]):
        (nodes / str(number)).mkdir(parents=True)
        (nodes / str(number) / "properties").write_text(f"cpu_cores_count 0\nsimd_count {simds}\nvendor_id {vendor}\n")
    (tmp_path / "sys" / "module" / "amdgpu").mkdir(parents=True)
    (tmp_path / "sys" / "module" / "amdgpu" / "version").write_text("6.14.14\n")
    assert nvidia(tmp_path) == (1, "580.159.04")
    assert amd(tmp_path) == (2, "6.14.14")  # neither the CPU nor NVIDIA's card


def test_without_drivers_there_is_nothing(tmp_path: Path) -> None:
    assert nvidia(tmp_path) == amd(tmp_path) == (0, "")


def test_what_several_processes_trained_is_not_reproduced_by_one() -> None:
    alone, together = {"engine": {"workers": [[0, 1]]}}, {"engine": {"workers": [[0, 2], [7, 1]]}}
    refuse_a_groups(3, {"roles": {"logical": alone, "creative": {"engine": {}}}})  # the second of an earlier version
    with pytest.raises(LunaError, match=r"G3 was trained by several processes together \(creative by 2\)"):
        refuse_a_groups(3, {"roles": {"logical": alone, "creative": together}})
