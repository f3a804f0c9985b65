"""Single measurements for `bench.gpu_day`: what the card can do, what a step costs on it, and whether numbers agree."""

from __future__ import annotations

import copy
import gc
import json
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.gpu_loops import (
    LR,
    RANK,
    ROLES_TRAINED,
    WARM_UP_STEPS,
    Setting,
    new_step,
    random_rows,
    run_graph,
    run_lean,
    step_groups,
)
from trainers.fused.graph import GraphStep, best_ops, no_collection
from trainers.fused.step import StepParts, TrioStep
from trainers.gpu.ops import Adapter, Places, PlainOps, Shape
from trainers.lean.segments import SegmentViews


def card_facts(device: torch.device) -> dict[str, Any]:
    """Name, driver, capability and versions."""
    facts: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip}
    for package in ("transformers", "peft", "triton", "accelerate"):
        try:
            facts[package] = __import__(package).__version__
        except ImportError:
            facts[package] = None
    if device.type != "cuda":
        return facts
    properties = torch.cuda.get_device_properties(0)
    query = "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    return facts | {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_mib": properties.total_memory >> 20,
        "nvidia_smi": subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip(),
    }


def ceilings(device: torch.device, small: bool) -> dict[str, float]:
    """A large copy in TB/s, read and written bytes counted, and a large bfloat16 product in TFLOP/s, random data."""
    size, width = (1 << 20, 256) if small else (1 << 31, 8192)
    copying, product = _copy_seconds(size, device), _product_seconds(width, device)
    return {"copy_tb_per_s": 2 * size / copying / 1e12, "bf16_tflops": 2 * width**3 / product / 1e12}


def _copy_seconds(size: int, device: torch.device) -> float:
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    return seconds_of(lambda: target.copy_(source), device)


def _product_seconds(width: int, device: torch.device) -> float:
    a, b = (torch.randn(width, width, device=device).bfloat16() for _ in range(2))
    return seconds_of(lambda: a @ b, device)


def seconds_of(work: Callable[[], Any], device: torch.device, repeats: int = 10) -> float:
    """Median time of one call; on a GPU by events, after three calls of warm-up."""
    import time

    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        else:
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def graphed_seconds(work: Callable[[], Any], device: torch.device, calls: int = 20) -> float:
    """Time of one call among many in a CUDA graph, so that no launch gap counts."""
    if device.type != "cuda":
        return seconds_of(work, device, 3)
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with no_collection(), torch.cuda.graph(graph):
        for _ in range(calls):
            work()
    return seconds_of(graph.replay, device, 5) / calls


# -- do the numbers agree --------------------------------------------------------------------------------------------


def numbers_agree(hf: Any) -> dict[str, Any]:
    """Relative distances of losses and gradients, in bfloat16 and float32: pass with kernels, pass with plain
    operations, lean forward, and all of them against the lean forward in float32."""
    found: dict[str, Any] = {}
    rows = random_rows(2, hf.config.vocab_size, 8)
    setting = Setting("", 8, 1, run_graph)
    reference: tuple[Tensor, Tensor] | None = None
    for dtype in (torch.float32, torch.bfloat16):
        model = copy.deepcopy(hf).float() if dtype == torch.float32 else hf
        for name, kind, ops in _kinds(hf.device):
            try:
                losses, grad = _one_step(model, rows, setting, kind, ops)
                reference = reference or (losses, grad)
                found[f"{name}, {dtype}"] = [_apart(losses, reference[0]), _apart(grad, reference[1])]
            except Exception as error:
                found[f"{name}, {dtype}"] = repr(error)[:1500]
    return found


def _kinds(device: torch.device) -> list[tuple[str, type[TrioStep], Any]]:
    plain = PlainOps()
    kinds: list[tuple[str, type[TrioStep], Any]] = [("lean", TrioStep, None), ("plain pass", GraphStep, plain)]
    return [*kinds, ("pass", GraphStep, best_ops(device))] if device.type == "cuda" else kinds


def _one_step(
    hf: Any, rows: list[list[Any]], setting: Setting, kind: type[TrioStep], ops: Any
) -> tuple[Tensor, Tensor]:
    """Losses and gradients of a first step of adapters whose B matrices are not zero."""
    torch.manual_seed(2)
    trio = new_step(hf, kind)
    torch.manual_seed(4)
    trio.bank.master.add_(torch.randn_like(trio.bank.master), alpha=0.01)
    trio.bank.round_to_compute()
    if isinstance(trio, GraphStep) and ops is not None:
        trio._pass = type(trio._pass).over(trio.model, trio.bank, ops, 8192)
    found = trio.channel_gradients(StepParts(trio.pack(step_groups(rows, 0, setting))))
    return found.total.cpu().clone(), trio.bank.grad.cpu().clone()


def gradients_of(hf: Any, rows_a_step: int) -> Tensor:
    """The gradients of one step by `GraphStep`, on the host."""
    rows = random_rows(1, hf.config.vocab_size, rows_a_step)
    return _one_step(hf, rows, Setting("", rows_a_step, 1, run_graph), GraphStep, None)[1]


def _apart(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def same_bytes_twice(hf: Any, steps: int) -> dict[str, Any]:
    """Whether runs of so many steps end in equal bytes: each way twice, and graphs against eager passes."""
    rows = random_rows(steps, hf.config.vocab_size, 8)
    setting = Setting("", 8, 1, run_graph)

    def masters(kind: type[TrioStep], captures: bool = True) -> Tensor:
        torch.manual_seed(2)
        trio = new_step(hf, kind)
        if isinstance(trio, GraphStep) and not captures:
            trio.without_graphs()
        for step in range(steps):
            found = trio.channel_gradients(StepParts(trio.pack(step_groups(rows, step, setting))))
            trio.move([LR] * ROLES_TRAINED, 1.0, found.norms)
        return trio.bank.master.cpu().clone()

    found: dict[str, Any] = {}
    graph = masters(GraphStep)
    found["graphs twice"] = torch.equal(graph, masters(GraphStep))
    found["graphs and eager"] = torch.equal(graph, masters(GraphStep, captures=False))
    lean = masters(TrioStep)
    found["part by part twice"] = torch.equal(lean, masters(TrioStep))
    found["graphs from part by part, relative"] = _apart(graph, lean)
    return found


# -- what a step costs -----------------------------------------------------------------------------------------------


def profiled(step: Callable[[int], None], device: torch.device) -> dict[str, Any]:
    """Launches, waits, copies, busy time and wall time of one step, over five after six of warm-up."""
    if device.type != "cuda":
        step(0)
        return {}
    from torch.profiler import ProfilerActivity, profile

    for number in range(WARM_UP_STEPS + 1):
        step(number)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for number in range(WARM_UP_STEPS + 1, WARM_UP_STEPS + 6):
            step(number)
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return _summed(json.loads(path.read_text())["traceEvents"], 5)


def _summed(events: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    on_device = [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    calls = [e["name"] for e in events if e.get("cat") in ("cuda_runtime", "cuda_driver")]
    spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in on_device)
    busy, until = 0.0, 0.0
    for start, end in spans:
        busy, until = busy + max(0.0, end - max(start, until)), max(until, end)
    whole = spans[-1][1] - spans[0][0]
    by_name: dict[str, list[float]] = {}
    for event in on_device:
        by_name.setdefault(event["name"][:90], []).append(event["dur"])
    top = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:40]
    return {
        "kernels_a_step": sum(e["cat"] == "kernel" for e in on_device) / steps,
        "launches_a_step": sum("Launch" in name for name in calls) / steps,
        "waits_a_step": sum("Synchronize" in name for name in calls) / steps,
        "copies_a_step": sum(e["cat"] == "gpu_memcpy" for e in on_device) / steps,
        "step_ms": whole / steps / 1e3,
        "busy_ms": busy / steps / 1e3,
        "idle_share": 1 - busy / whole,
        "top_us_a_step": [[name, round(sum(own) / steps, 1), len(own) / steps] for name, own in top],
    }


def peak_memory(hf: Any, small: bool) -> dict[str, Any]:
    """MiB that tensors held at most in two steps, by rows a role and way, next to what `GraphStep` reckons with."""
    from trainers.fused.graph import bytes_a_token

    found: dict[str, Any] = {}
    for rows_a_step in (2, 4) if small else (8, 16, 32, 64):
        for name, kind in (("segments and graphs", GraphStep), ("part by part", TrioStep)):
            gc.collect()
            if hf.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            trio = new_step(hf, kind)
            rows = random_rows(2, hf.config.vocab_size, rows_a_step)
            setting = Setting(name, rows_a_step, 1, run_lean)
            for step in range(2):
                batches = trio.pack(step_groups(rows, step, setting))
                moved = trio.channel_gradients(StepParts(batches))
                trio.move([LR] * ROLES_TRAINED, 1.0, moved.norms)
            peak = torch.cuda.max_memory_allocated() >> 20 if hf.device.type == "cuda" else 0
            reckoned = sum(batch.tokens for batch in batches) * bytes_a_token(trio.model, RANK) >> 20
            found[f"{rows_a_step} rows, {name}"] = {"peak_mib": peak, "reckoned_mib": reckoned}
            del trio, moved
    return found


# -- what its parts cost ---------------------------------------------------------------------------------------------


def kernel_times(hf: Any, small: bool) -> dict[str, dict[str, float]]:
    """Microseconds of each product and kernel of one layer, inside a graph, at the recipe's bucket and at 64 rows'."""
    found = {}
    for rows_a_step in (2,) if small else (8, 64):
        trio = new_step(hf, GraphStep)
        setting = Setting("", rows_a_step, 1, run_graph)
        (batch,) = trio.pack(step_groups(random_rows(1, hf.config.vocab_size, rows_a_step), 0, setting))
        bucket = batch.bucket
        own = {**_linear_times(trio, bucket.tokens), **_op_times(trio, batch), **_update_times(trio)}
        found[f"{rows_a_step} rows, {bucket}"] = own
    return found


def _linear_times(trio: GraphStep, tokens: int) -> dict[str, float]:
    times, device, dtype = {}, trio.model.device, trio.model.dtype
    for group in range(4):
        frozen, views = trio.model.layers[0].groups[group], trio._pass.views[group]
        out, in_features = frozen.weight.shape
        x, grad = (torch.randn(tokens, width, device=device).to(dtype) for width in (in_features, out))
        down = torch.randn(ROLES_TRAINED, tokens // ROLES_TRAINED, views.a.shape[1], device=device).to(dtype)
        by_slot, of_grad = x.view(ROLES_TRAINED, -1, in_features), grad.view(ROLES_TRAINED, -1, out)
        y, on_x, transposed = grad.clone().view(of_grad.shape), x.clone().view(by_slot.shape), views.b.transpose(1, 2)
        parts: dict[str, Callable[[], Any]] = {
            "base": partial(torch.mm, x, frozen.weight.t()),
            "base backward": partial(torch.mm, grad, frozen.weight),
            "down": partial(torch.bmm, by_slot, views.a.transpose(1, 2)),
            "up": partial(y.baddbmm_, down, transposed, alpha=2.0),
            "on down": partial(torch.bmm, of_grad, views.b),
            "on x": partial(on_x.baddbmm_, down, views.a, alpha=2.0),
            "whole forward": partial(trio._pass._linear, 0, group, x),
            "whole backward": partial(_backward_alone, trio, group, grad, (x, down)),
        }
        for name, work in parts.items():
            times[f"group {group} {name}"] = graphed_seconds(work, device) * 1e6
    return times


def _backward_alone(trio: GraphStep, group: int, grad: Tensor, kept: tuple[Tensor, Tensor]) -> None:
    trio._pass._linear_backward(0, group, grad, kept, True)
    trio._pass.far.finish()


def _op_times(trio: GraphStep, batch: Any) -> dict[str, float]:
    model, run, device, bucket = trio.model, trio._pass, trio.model.device, batch.bucket
    ops, views = run.ops, SegmentViews.of(batch.buffer.to(device), bucket)
    shape = Shape(bucket.slots, bucket.length, model.heads, model.key_heads, model.head_width)
    places = Places(shape, views.positions, views.start, views.stop, views.prefix, *run.rotary)
    frozen = model.layers[0].groups

    def random(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, device=device).to(model.dtype)

    x, qkv, gate_up = (
        random(bucket.tokens, w) for w in (len(model.final_norm), *(len(frozen[g].weight) for g in (0, 2)))
    )
    low = random(bucket.tokens, 3 * RANK).view(ROLES_TRAINED, -1, 3 * RANK)
    up = Adapter(low[..., RANK:].contiguous(), run.views[2].b, 2.0)
    after = Adapter(low[..., :RANK].contiguous(), run.views[3].a, 2.0)
    norm, act = model.final_norm, ops.swiglu(gate_up, up)
    total, _, scale = ops.norm(x, x, norm, model.eps)
    mixed, lse = ops.attend(qkv, places)
    hidden, logits = random(bucket.scored, len(norm)), random(bucket.scored, len(model.output))
    coefficients = torch.ones(bucket.scored, device=device)
    from trainers.gpu.segment_pass import wide_mm

    works: dict[str, Callable[[], Any]] = {
        "norm": lambda: ops.norm(x, x, norm, model.eps),
        "norm backward": lambda: ops.norm_backward(x, total, scale, norm, x),
        "rotate": lambda: ops.rotate_(qkv, places),
        "attend": lambda: ops.attend(qkv, places),
        "attend backward": lambda: ops.attend_backward(mixed, qkv, mixed, lse, places),
        "swiglu": lambda: ops.swiglu(gate_up, up),
        "swiglu backward": lambda: ops.swiglu_backward(act, after, gate_up),
        "logits": lambda: hidden @ model.output.t(),
        "token losses": lambda: ops.token_losses_(logits, views.targets, coefficients),
        "on hidden": lambda: wide_mm(logits, model.output),
    }
    return {name: graphed_seconds(work, device, 10) * 1e6 for name, work in works.items()}


def _update_times(trio: GraphStep) -> dict[str, float]:
    device = trio.model.device
    works: dict[str, Callable[[], Any]] = {
        "gradient norms": lambda: torch.linalg.vector_norm(trio.bank.grad, dim=1),
        "round to compute": trio.bank.round_to_compute,
        "round to compute, two launches": trio._round,
        "update": trio._updated,
    }
    return {name: graphed_seconds(work, device, 4) * 1e6 for name, work in works.items()}
