"""The fused engine's own `train` on a GPU: packing, curves, progress and checks included."""

from __future__ import annotations

import random
import string
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from trainers.fused import run
from trainers.fused.engine import FusedEngine
from trainers.fused.graph import step_for
from trainers.fused.step import TrioStep


def through_the_engine(shape: dict[str, Any], device: torch.device, steps: int) -> dict[str, Any]:
    """Examples a second by `FusedEngine.train` as it chooses its step, and with the step part by part."""
    from bench.gpu import random_model
    from trainers.config import LoraSettings, TrainSettings
    from trainers.models.frozen import Base
    from trainers.models.tiny import byte_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "base"
        random_model(shape, device).save_pretrained(place)
        byte_tokenizer().save_pretrained(place)
        train = TrainSettings(batch_size=8, dtype="bfloat16", checkpoint_every_steps=10_000, threads=1)
        lora = LoraSettings(rank=32, alpha=64)
        engine = FusedEngine(Base("random", "0" * 64, place), train, lora, device)
        chosen, found = step_for, dict[str, Any]()
        for name, kind in (
            ("part by part", lambda *_: TrioStep),
            ("as chosen", chosen),
            ("as chosen, again", chosen),
        ):
            setattr(run, "step_for", kind)  # noqa: B010
            try:
                found[name] = _trained(engine, Path(folder) / name.replace(" ", "-"), train, lora, steps)
            finally:
                setattr(run, "step_for", chosen)  # noqa: B010
    found["equal adapters"] = found["as chosen"].pop("shas") == found["as chosen, again"].pop("shas")
    found["part by part"].pop("shas")
    return found


def _trained(engine: Any, folder: Path, train: Any, lora: Any, steps: int) -> dict[str, Any]:
    from curriculum.parquet import freeze
    from ledger.home import Home
    from ledger.roles import ROLES
    from trainers.job import TrioJob

    home = Home(folder).create()
    job = TrioJob(
        roles=tuple(ROLES),
        parents=dict.fromkeys(ROLES),
        train_file=str(home.data_file(freeze(_examples(steps * 8), home))),
        role_steps=dict.fromkeys(ROLES, steps),
        adapters_dir=str(home.adapters_dir),
        run_dir=str(home.run_dir("run")),
        seed=1,
        train=train,
        lora=lora,
    )
    marks: list[float] = []
    began = time.perf_counter()
    outcome = engine.train(job, lambda _: marks.append(time.perf_counter()), lambda: False)
    seconds, warm = time.perf_counter() - began, len(marks) // 3
    return {
        "examples_per_s_whole": 3 * 8 * steps / seconds,
        "examples_per_s_after_a_third": 3 * 8 * (len(marks) - 1 - warm) / (marks[-1] - marks[warm]),
        "seconds": seconds,
        "loss_start_end": {role: [own.loss_start, own.loss_end] for role, own in outcome.roles.items()},
        "shas": {role: own.adapter_sha for role, own in outcome.roles.items()},
    }


def _examples(count: int) -> list[Any]:
    from curriculum.example import make_example
    from ledger.roles import ROLES

    draw = random.Random("bench:engine")

    def words(least: int, most: int) -> str:
        return "".join(draw.choice(string.ascii_lowercase) for _ in range(draw.randint(least, most)))

    return [
        make_example(
            role=role, stage="fundamentals", category="bench", kind="pure", input=f"{i} {words(8, 20)}",
            output=words(4, 9), source="bench",
        )
        for role in ROLES
        for i in range(count)
    ]  # fmt: skip
