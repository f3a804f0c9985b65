"""The choices inside the GPU step, each measured whole: a step's time and what its gradients differ by."""

from __future__ import annotations

import importlib
import statistics
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

import trainers.fused.graph
import trainers.gpu.segment_pass
from bench.gpu_loops import Setting, random_rows, run_graph, stepper
from bench.gpu_probe import gradients_of
from trainers.gpu.ops import PlainOps

VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "one stream": {"streams": False},
    "attention by 32": {"_SEEN": 32},
    "attention by 128": {"_SEEN": 128},
    "gate by 64 x 64": {"_TILE": (64, 64)},
    "gate by 64 x 128": {"_TILE": (64, 128)},
    "gate by 16 x 256": {"_TILE": (16, 256)},
    "plain operations for kernels": {"ops": PlainOps()},
}


def variants(hf: Any, small: bool) -> dict[str, Any]:
    """By name and rows a role: milliseconds of a step, and how far its gradients are from the first's, relatively."""
    found: dict[str, Any] = {}
    for rows in (3,) if small else (8, 64):
        reference = None
        for name, choice in VARIANTS.items():
            if rows == 64 and "ops" in choice:
                continue  # the plain operations hold all scores: too large
            try:
                with chosen(choice):
                    grad = gradients_of(hf, rows)
                    reference = grad if reference is None else reference
                    found[f"{rows} rows, {name}"] = {
                        "step_ms": _step_ms(hf, rows),
                        "apart": float((grad - reference).norm() / reference.norm()),
                    }
            except Exception:
                found[f"{rows} rows, {name}"] = traceback.format_exc()[-800:]
    return found


LEVELS: list[dict[str, Any]] = [{}, {"streams": False}, {"streams": False, "graphs": False}]
"""From all that the step does to what is left when a driver cannot do it."""


def preflight(level: int) -> None:
    """Take three steps of a toy model by a level of :data:`LEVELS`; raises if that cannot be done."""
    from bench.gpu import SMALL, random_model

    apply(LEVELS[level])
    model = random_model(SMALL, torch.device("cuda", 0))
    take = stepper(model, random_rows(3, model.config.vocab_size, 4), Setting("", 4, 1, run_graph), 3)
    for number in range(3):
        take(number)
    torch.randn(3, device="cuda").sum().item()


def apply(choice: dict[str, Any]) -> None:
    """As :func:`chosen`, for the rest of the process."""
    if choice.get("streams") is False:
        trainers.gpu.segment_pass.Beside.__init__ = _on_one_stream  # type: ignore[method-assign]
    if choice.get("graphs") is False:
        torch.cuda.graph_pool_handle = lambda: None  # type: ignore[assignment, return-value]


def _step_ms(hf: Any, rows: int) -> float:
    setting, last = Setting("", rows, 1, run_graph), 4 if hf.device.type == "cpu" else 25
    take = stepper(hf, random_rows(last, hf.config.vocab_size, rows), setting, last)
    times = []
    for number in range(last):
        began = time.perf_counter()
        take(number)
        times.append(time.perf_counter() - began)
    return statistics.median(times[last // 5 :]) * 1e3


@contextmanager
def chosen(choice: dict[str, Any]) -> Iterator[None]:
    """The GPU step with one thing done differently."""
    with _patches() as patch:
        if "streams" in choice:
            patch(trainers.gpu.segment_pass.Beside, "__init__", _on_one_stream)
        if "ops" in choice:
            patch(trainers.fused.graph, "best_ops", lambda _: choice["ops"])
        for name in ("_SEEN", "_TILE"):
            if name in choice and torch.cuda.is_available():
                patch(importlib.import_module("trainers.gpu.triton_ops"), name, choice[name])
        yield


def _on_one_stream(self: Any, device: torch.device | None) -> None:
    self._stream, self._kept, self._before = None, [], None


@contextmanager
def _patches() -> Iterator[Any]:
    """A function that sets an attribute until the block ends."""
    before: list[tuple[Any, str, Any]] = []

    def patch(where: Any, name: str, value: Any) -> None:
        before.append((where, name, getattr(where, name)))
        setattr(where, name, value)

    try:
        yield patch
    finally:
        for where, name, value in reversed(before):
            setattr(where, name, value)


if __name__ == "__main__":
    preflight(int(sys.argv[1]))
