"""The reference engine: plain TRL, one role after another, for any decoder that transformers and PEFT know.

It is the fallback where the lean forward does not know the model's family, and what the fused engine is checked
against in tests. Slower, and each role's checkpoint is Hugging Face's own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from curriculum.example import Example
from ledger.errors import LunaError
from ledger.files import publish_dir, sha256_file, sha256_json, sync, temporary_beside, write_atomic
from ledger.roles import BASE, Role, Voice
from trainers import runtime
from trainers.checkpoint import fingerprint
from trainers.config import LoraSettings, TrainSettings
from trainers.curves import LossCurves
from trainers.data import read_role_data, tokenise
from trainers.job import (
    EngineInfo,
    NonFiniteError,
    Paused,
    RoleOutcome,
    StepTooLarge,
    TrioJob,
    TrioOutcome,
    TrioProgress,
)
from trainers.models.adapter_set import AdapterSet
from trainers.models.adapters import WEIGHTS, blend_files
from trainers.models.frozen import Base, load_base
from trainers.reference.generator import PeftGenerator, load_adapter
from trainers.schedule import slice_of_step, warmup_of

logger = logging.getLogger(__name__)


class TrlEngine:
    """See :class:`trainers.job.Engine`."""

    name = "trl"
    lean = None

    def __init__(self, base: Base, train: TrainSettings, lora: LoraSettings, device: torch.device):
        self.base, self.lora, self.device = base, lora, device
        self.threads = runtime.pin_threads(train.threads)
        self.dtype = runtime.resolve_dtype(train.dtype, device)
        self.model, self.tokenizer = load_base(base.path, self.dtype, device)

    @property
    def info(self) -> EngineInfo:
        """See :attr:`trainers.job.Engine.info`."""
        import trl

        return EngineInfo(
            engine="trl",
            device=self.device.type,
            dtype=str(self.dtype).removeprefix("torch."),
            threads=self.threads,
            versions={"torch": torch.__version__, "trl": trl.__version__},
            card=runtime.card_of(self.device),
        )

    def train(
        self, job: TrioJob, on_progress: Callable[[TrioProgress], None], should_stop: Callable[[], bool]
    ) -> TrioOutcome:
        """See :meth:`trainers.job.Engine.train`."""
        if job.channels.mode == "dual":
            raise LunaError(
                "the trl engine trains on examples alone; preference pairs need the fused engine. Use a Llama or Qwen2 "
                'base without [train] engine = "trl", or --channels sft.'
            )
        if job.train.least_loss:
            raise LunaError(
                "the trl engine leaves out no updates; [train] least_loss needs the fused engine. Set it to 0, or use "
                'a Llama or Qwen2 base without [train] engine = "trl".'
            )
        if job.train.kl_weight:
            logger.info("the trl engine does not hold roles to their parent: [train] kl_weight is left out")
        _refuse_uneven_batches(job)
        job = _in_micro_batches(job)
        runtime.pin_threads(self.threads)
        mark, watch = fingerprint(job, self.info), _Watch(job, on_progress, should_stop)
        examples = read_role_data(job).examples
        found = {role: self._train_role(_RoleRun(job, role, examples[role], mark, watch)) for role in job.roles}
        outcomes = {role: outcome for role, (outcome, _) in found.items()}
        return TrioOutcome(outcomes, sum(seconds for _, seconds in found.values()), self.info)

    def _train_role(self, run: _RoleRun) -> tuple[RoleOutcome, float]:
        """One role's outcome, and how long it was trained over all parts of the run."""
        done = json.loads(run.record.read_text()) if run.record.exists() else None
        if done is not None and done["fingerprint"] == run.fingerprint:
            run.watch.finished(run.role)
            return RoleOutcome(**done["outcome"]), done["seconds"]
        start, job, before = time.perf_counter(), run.job, _seconds_at(_newest_whole(run.checkpoints))
        with self._adapted(run.role, _parent_of(job, run.role), job.seed, trainable=True) as model:
            with _more_micro_batches(job):
                losses = self._fit(model, run, lambda: before + time.perf_counter() - start)
            sha = self._publish(model, Path(job.adapters_dir))
        outcome, seconds = (
            RoleOutcome.of(job, run.role, sha, len(run.examples), losses),
            before + time.perf_counter() - start,
        )
        record = {"fingerprint": run.fingerprint, "outcome": outcome.__dict__, "seconds": seconds}
        write_atomic(run.record, json.dumps(record))
        return outcome, seconds

    def _fit(self, model: Any, run: _RoleRun, seconds: Callable[[], float]) -> list[float]:
        """Run TRL's trainer to the end; returns the loss of every step. `seconds` tells how long it has been at it."""
        from datasets import Dataset
        from trl import SFTTrainer

        follow = _Follow(run, seconds)
        trainer = SFTTrainer(
            model=model,
            args=_sft_config(run, use_cpu=self.device.type == "cpu"),
            train_dataset=Dataset.from_list(run.rows_in_order(self.tokenizer)),
            processing_class=self.tokenizer,
            callbacks=[follow],
        )
        newest = _newest_whole(run.checkpoints)
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        if follow.stopped_at is not None:
            raise Paused(
                f"training of {run.role} stopped at step {follow.stopped_at} of {run.steps}; "
                "the next run goes on there."
            )
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        with LossCurves(run.folder / "tensorboard", [run.role], 0) as curves:
            for number, loss in enumerate(losses, start=1):
                curves.add(number, {run.role: loss})
        return losses

    @contextlib.contextmanager
    def _adapted(self, role: Role, folder: Path | None, seed: int, trainable: bool) -> Iterator[Any]:
        """The base with one adapter on it, a fresh one without a folder; taken off again afterwards."""
        from peft import LoraConfig, get_peft_model

        if folder is None:
            torch.manual_seed(int(sha256_json([seed, role])[:8], 16))
            lora = LoraConfig(
                r=self.lora.rank,
                lora_alpha=self.lora.alpha,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            )
            model = get_peft_model(self.model, lora)
        else:
            model = load_adapter(self.model, folder, self.lora, trainable)
        try:
            yield model
        finally:
            self.model = model.unload()
            if hasattr(self.model, "peft_config"):
                del self.model.peft_config

    def _publish(self, model: Any, adapters_dir: Path) -> str:
        temporary = temporary_beside(adapters_dir / "new")
        try:
            model.peft_config["default"].base_model_name_or_path = self.base.loadable
            model.save_pretrained(temporary)
            (temporary / "README.md").unlink(missing_ok=True)
            sha = sha256_file(temporary / WEIGHTS)
            publish_dir(temporary, adapters_dir / sha)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return sha

    def generator(self, adapters: AdapterSet) -> PeftGenerator:
        """See :meth:`trainers.job.Engine.generator`."""
        return PeftGenerator(lambda voice: self._voiced(voice, adapters), self.tokenizer, self.device)

    def blended(self, parents: AdapterSet, children: AdapterSet, alpha: float, into: Path) -> AdapterSet:
        """See :meth:`trainers.job.Engine.blended`."""
        return blend_files(parents, children, alpha, into)

    @contextlib.contextmanager
    def _voiced(self, voice: Voice, adapters: AdapterSet) -> Iterator[Any]:
        """The model that speaks as `voice`: the base with that role's adapter, or bare."""
        if voice == BASE:
            yield self.model
            return
        if voice not in adapters.shas:
            raise LunaError(f"there is no adapter of {voice!r} here; those there are: {', '.join(adapters.shas)}.")
        with self._adapted(voice, adapters.path(voice), 0, trainable=False) as model:
            yield model.eval()


def _refuse_uneven_batches(job: TrioJob) -> None:
    """TRL trains equal micro-batches: with others it would train fewer rows than the record says."""
    cut = job.train.gradient_accumulation_steps
    for role in job.roles:
        if (size := job.train.batch_size_of(role)) % cut:
            raise LunaError(
                f"[train] batch_size {size} of {role} cannot be cut into gradient_accumulation_steps {cut} equal "
                "parts, which the trl engine needs. `luna generation abandon`, make the one a multiple of the other in "
                "luna.toml, and run again."
            )


def _in_micro_batches(job: TrioJob) -> TrioJob:
    """The job under settings that say what was raised: TRL cuts all steps of a training alike, from its start."""
    parts = max(job.train.gradient_accumulation_steps, job.least_parts(0))
    train = job.train.model_copy(update={"gradient_accumulation_steps": parts})
    return dataclasses.replace(job, train=train)


@contextlib.contextmanager
def _more_micro_batches(job: TrioJob) -> Iterator[None]:
    """Tell what may help where memory runs out in this block."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        parts = 2 * job.train.gradient_accumulation_steps
        uneven = any(job.train.batch_size_of(role) % parts for role in job.roles)
        if uneven or not runtime.is_out_of_memory(error):
            raise
        raise StepTooLarge(0, parts, runtime.first_line(error)) from error


def _parent_of(job: TrioJob, role: Role) -> Path | None:
    parent = job.parents[role]
    return None if parent is None else Path(job.adapters_dir) / parent


@dataclass(frozen=True)
class _RoleRun:
    """One role of a job: what it trains on, and where its record, checkpoints and curves lie."""

    job: TrioJob
    role: Role
    examples: list[Example]
    fingerprint: str
    watch: _Watch

    @property
    def folder(self) -> Path:
        return Path(self.job.run_dir) / self.role

    @property
    def record(self) -> Path:
        """Written when the role is done."""
        return self.folder / "role.json"

    @property
    def checkpoints(self) -> Path:
        return self.folder / self.fingerprint[:12]

    @property
    def steps(self) -> int:
        return self.job.role_steps[self.role]

    def batch(self, step: int) -> Sequence[Example]:
        """The examples of one step (0-based)."""
        return slice_of_step(self.examples, step, self.job.train.batch_size_of(self.role))

    def rows_in_order(self, tokenizer: Any) -> list[dict[str, list[int]]]:
        """Every row of every step, tokenised, in the order in which it is trained."""
        if any(example.weight != 1.0 for example in self.examples):
            raise LunaError(
                f"{self.job.train_file} has examples of {self.role} with a weight other than 1, which the trl engine "
                "cannot apply; use a Llama or Qwen2 base (the fused engine), or set their weight to 1."
            )
        rows: dict[str, dict[str, list[int]]] = {}
        for example in self.examples:
            if example.id not in rows:
                row = tokenise(tokenizer, example, self.job.text)
                labels = [-100] * row.prompt_len + list(row.tokens[row.prompt_len :])
                rows[example.id] = {"input_ids": list(row.tokens), "labels": labels}
        return [rows[example.id] for example in self.examples]


def _sft_config(run: _RoleRun, use_cpu: bool) -> Any:
    """The job's settings as TRL names them."""
    from trl import SFTConfig

    train = run.job.train
    return SFTConfig(
        output_dir=str(run.checkpoints),
        per_device_train_batch_size=train.batch_size_of(run.role) // train.gradient_accumulation_steps,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        max_steps=run.steps,
        learning_rate=train.lr_of(run.role),
        warmup_steps=warmup_of(run.steps, train.warmup_steps),
        weight_decay=train.weight_decay,
        adam_beta2=train.adam_beta2,
        max_grad_norm=train.max_grad_norm,
        train_sampling_strategy="sequential",
        max_length=None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=train.checkpoint_every_steps,
        save_total_limit=2,  # The older one goes only after the newer one is marked whole.
        use_cpu=use_cpu,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
        seed=run.job.seed % 2**32,
    )


class _Follow(TrainerCallback):
    """Watches one role's training: stops it when asked to or when a loss is not finite, marks checkpoints as whole."""

    def __init__(self, run: _RoleRun, seconds: Callable[[], float]):
        self.run, self.seconds = run, seconds
        self.stopped_at: int | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.run.watch.should_stop() and state.global_step < state.max_steps:
            self.stopped_at = state.global_step
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        _mark_whole(self.run.checkpoints / f"checkpoint-{state.global_step}", self.seconds())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            _stop_if_not_finite(logs, self.run, state.global_step)
            self.run.watch.step(self.run.role, state.global_step, logs["loss"])


_WHOLE = "whole"
"""transformers writes a checkpoint's files in place; this one, put there last, says that none is missing or short, and
for how many seconds the role had been trained."""


def _mark_whole(checkpoint: Path, seconds: float) -> None:
    for file in checkpoint.iterdir():
        sync(file)
    write_atomic(checkpoint / _WHOLE, str(seconds))


def _seconds_at(checkpoint: Path | None) -> float:
    return float((checkpoint / _WHOLE).read_text()) if checkpoint else 0.0


def _newest_whole(checkpoints: Path) -> Path | None:
    """The checkpoint to go on from; what a kill left half-written is cleared away."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))
    whole = [path for path in found if (path / _WHOLE).exists()]
    for half in set(found) - set(whole):
        shutil.rmtree(half)
    return whole[-1] if whole else None


class _Watch:
    """Turns one-role-at-a-time training into the trio's progress."""

    def __init__(self, job: TrioJob, on_progress: Callable[[TrioProgress], None], should_stop: Callable[[], bool]):
        self.job, self.on_progress, self.should_stop = job, on_progress, should_stop
        self.losses: dict[Role, float] = {}
        self.role_steps: dict[Role, int] = dict.fromkeys(job.roles, 0)
        self.start, self.done = time.perf_counter(), 0

    def finished(self, role: Role) -> None:
        """The role was trained before an interruption."""
        self.role_steps[role] = self.job.role_steps[role]

    def step(self, role: Role, step: int, loss: float) -> None:
        """Report one optimizer step of one role."""
        train, totals = self.job.train, dict(self.job.role_steps)
        self.losses[role], self.role_steps[role] = loss, step
        self.done += 1
        seconds = time.perf_counter() - self.start
        taken, whole = sum(self.role_steps.values()), sum(totals.values())
        self.on_progress(
            TrioProgress(
                step=self.job.steps * taken // whole,
                steps=self.job.steps,
                losses=dict(self.losses),
                examples_per_s=self.done * train.batch_size_of(role) / seconds,
                seconds_left=seconds / self.done * (whole - taken),
                role_steps=dict(self.role_steps),
                role_totals=totals,
            )
        )


def _stop_if_not_finite(logs: Mapping[str, float], run: _RoleRun, step: int) -> None:
    values = (logs["loss"], logs.get("grad_norm", 0.0))
    if all(abs(value) < float("inf") for value in values):
        return
    raise NonFiniteError(
        f"the loss of {run.role} is {values[0]} (gradient norm {values[1]}) at step {step} in the batch of examples "
        f"{', '.join(example.id[:12] for example in run.batch(step - 1))}. Look at these examples, or lower [train] lr."
    )
