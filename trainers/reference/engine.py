"""The reference engine: plain TRL, one role after another, for any decoder that transformers and PEFT know.

It is the fallback where the lean forward does not know the model's family, and what the fused engine is checked
against in tests. Slower, and each role's checkpoint is Hugging Face's own.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from curriculum.example import Example
from ledger.errors import LunaError
from ledger.files import publish_dir, sha256_file, sha256_json, sync, temporary_beside, write_atomic
from ledger.roles import Role
from trainers import runtime
from trainers.checkpoint import fingerprint
from trainers.config import LoraSettings, TrainSettings
from trainers.curves import LossCurves
from trainers.data import read_role_data
from trainers.job import EngineInfo, NonFiniteError, Paused, RoleOutcome, TrioJob, TrioOutcome, TrioProgress
from trainers.lean.generator import Voice, answer_ids, prompt_ids
from trainers.models.adapters import CONFIG, WEIGHTS, check_rank, interpolate, publish_tensors, read_tensors
from trainers.models.frozen import Base, load_base
from trainers.tokens import rows_of_step, tokenise


class TrlEngine:
    """See :class:`trainers.job.Engine`."""

    name = "trl"

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
        runtime.pin_threads(self.threads)
        start = time.perf_counter()
        mark = fingerprint(job, self.info)
        watch = _Watch(job, on_progress, should_stop)
        examples = read_role_data(job).examples
        outcomes = {role: self._train_role(job, role, examples[role], mark, watch) for role in job.roles}
        return TrioOutcome(outcomes, time.perf_counter() - start, self.info)

    def _train_role(self, job: TrioJob, role: Role, own: list[Example], mark: str, watch: _Watch) -> RoleOutcome:
        folder = Path(job.run_dir) / role
        record = folder / "role.json"
        done = json.loads(record.read_text()) if record.exists() else None
        if done is not None and done["fingerprint"] == mark:
            watch.finished(role)
            return RoleOutcome(**done["outcome"])
        with self._adapted(role, job.parents[role], Path(job.adapters_dir), job.seed, trainable=True) as model:
            losses = self._fit(model, job, role, own, folder, mark, watch)
            sha = self._publish(model, Path(job.adapters_dir))
        outcome = RoleOutcome.of(job, role, sha, len(own), losses)
        write_atomic(record, json.dumps({"fingerprint": mark, "outcome": outcome.__dict__}))
        return outcome

    def _fit(
        self, model: Any, job: TrioJob, role: Role, own: list[Example], folder: Path, mark: str, watch: _Watch
    ) -> list[float]:
        """Run TRL's trainer to the end; returns the loss of every step."""
        from datasets import Dataset
        from transformers import TrainerCallback
        from trl import SFTConfig, SFTTrainer

        train = job.train
        dataset = Dataset.from_list(self._batches_in_order(job, role, own))
        checkpoints = folder / mark[:12]
        config = SFTConfig(
            output_dir=str(checkpoints),
            per_device_train_batch_size=max(1, train.rows_of(role) // train.accumulation),
            gradient_accumulation_steps=train.accumulation,
            max_steps=train.steps_of(role),
            learning_rate=train.lr_of(role),
            warmup_steps=train.warmup_steps,
            weight_decay=train.weight_decay,
            adam_beta2=train.beta2,
            max_grad_norm=train.clip,
            train_sampling_strategy="sequential",
            max_length=None,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_steps=train.checkpoint_every_steps,
            save_total_limit=2,  # The older one goes only after the newer one is marked whole.
            use_cpu=self.device.type == "cpu",
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            disable_tqdm=True,
            seed=job.seed % 2**32,
        )
        stopped: list[int] = []

        class Follow(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if watch.should_stop() and state.global_step < state.max_steps:
                    stopped.append(state.global_step)
                    control.should_save = control.should_training_stop = True

            def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                _mark_whole(checkpoints / f"checkpoint-{state.global_step}")

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
                if logs and "loss" in logs:
                    _stop_if_not_finite(logs, role, state.global_step, own, job)
                    watch.step(role, state.global_step, logs["loss"])

        trainer = SFTTrainer(
            model=model, args=config, train_dataset=dataset, processing_class=self.tokenizer, callbacks=[Follow()]
        )
        newest = _newest_whole(checkpoints)
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        if stopped:
            raise Paused(
                f"training of {role} stopped at step {stopped[0]} of {train.steps_of(role)}; "
                "the next run goes on there."
            )
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        with LossCurves(folder / "tensorboard", [role], 0) as curves:
            for number, loss in enumerate(losses, start=1):
                curves.add(number, {role: loss})
        return losses

    def _batches_in_order(self, job: TrioJob, role: Role, own: list[Example]) -> list[dict[str, list[int]]]:
        """Every row of every step, tokenised, in the order in which it is trained."""
        if any(example.weight != 1.0 for example in own):
            raise LunaError(
                f"{job.train_file} has examples of {role} with a weight other than 1, which the trl engine cannot "
                "apply; use a Llama or Qwen2 base (the fused engine), or set their weight to 1."
            )
        train, ready = job.train, []
        rows = [tokenise(self.tokenizer, example, train.max_tokens) for example in own]
        for step in range(train.steps_of(role)):
            for index in rows_of_step(step, train.steps_of(role), train.rows_of(role), len(own)):
                row = rows[index]
                labels = [-100] * row.prompt_len + list(row.tokens[row.prompt_len :])
                ready.append({"input_ids": list(row.tokens), "labels": labels})
        return ready

    @contextlib.contextmanager
    def _adapted(self, role: Role, sha: str | None, adapters_dir: Path, seed: int, trainable: bool) -> Iterator[Any]:
        """The base with one adapter on it; taken off again afterwards."""
        from peft import LoraConfig, PeftModel, get_peft_model

        if sha is None:
            torch.manual_seed(int(sha256_json([seed, role])[:8], 16))
            lora = LoraConfig(
                r=self.lora.rank,
                lora_alpha=self.lora.alpha,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            )
            model = get_peft_model(self.model, lora)
        else:
            check_rank(adapters_dir / sha, self.lora.rank)
            try:
                model = PeftModel.from_pretrained(self.model, adapters_dir / sha, is_trainable=trainable)
            except Exception as error:  # PEFT and safetensors raise many kinds for one cause
                first = str(error).splitlines()[0]
                raise LunaError(f"the adapter {adapters_dir / sha} does not fit this base: {first}") from error
        try:
            yield model
        finally:
            self.model = model.unload()
            if hasattr(self.model, "peft_config"):
                del self.model.peft_config

    def _publish(self, model: Any, adapters_dir: Path) -> str:
        temporary = temporary_beside(adapters_dir / "new")
        try:
            model.peft_config["default"].base_model_name_or_path = self.base.source
            model.save_pretrained(temporary)
            (temporary / "README.md").unlink(missing_ok=True)
            sha = sha256_file(temporary / WEIGHTS)
            publish_dir(temporary, adapters_dir / sha)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return sha

    def generator(self, adapters: Mapping[Role, str], adapters_dir: Path) -> PeftGenerator:
        """See :meth:`trainers.job.Engine.generator`."""
        return PeftGenerator(self, dict(adapters), adapters_dir)

    def interpolated(
        self, parents: Mapping[Role, str], children: Mapping[Role, str], alpha: float, adapters_dir: Path, into: Path
    ) -> dict[Role, str]:
        """See :meth:`trainers.job.Engine.interpolated`."""
        shas: dict[Role, str] = {}
        for role, child in children.items():
            tensors = interpolate(read_tensors(adapters_dir / parents[role]), read_tensors(adapters_dir / child), alpha)
            config = (adapters_dir / child / CONFIG).read_text()
            shas[role] = publish_tensors(into, tensors, config)
        return shas

    @contextlib.contextmanager
    def voiced(self, voice: Voice, adapters: Mapping[Role, str], adapters_dir: Path) -> Iterator[Any]:
        """The model that speaks as `voice`: the base with that role's adapter, or bare."""
        sha = next((sha for role, sha in adapters.items() if role == voice), None)
        if sha is None:
            yield self.model
            return
        with self._adapted(voice, sha, adapters_dir, 0, trainable=False) as model:  # type: ignore[arg-type]
            yield model.eval()


class PeftGenerator:
    """See :class:`trainers.lean.generator.Generator`; plain Hugging Face calls, one adapter at a time."""

    def __init__(self, engine: TrlEngine, adapters: dict[Role, str], adapters_dir: Path, rows_at_once: int = 16):
        self.engine, self.adapters, self.adapters_dir, self.rows_at_once = engine, adapters, adapters_dir, rows_at_once

    @torch.no_grad()
    def generate(self, voice: Voice, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Greedy continuations, left-padded batches."""
        tokenizer, texts = self.engine.tokenizer, []
        with self.engine.voiced(voice, self.adapters, self.adapters_dir) as model:
            for start in range(0, len(prompts), self.rows_at_once):
                rows = [prompt_ids(tokenizer, prompt) for prompt in prompts[start : start + self.rows_at_once]]
                width = max(map(len, rows))
                ids = torch.tensor([[tokenizer.eos_token_id] * (width - len(r)) + r for r in rows])
                mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
                out = model.generate(
                    input_ids=ids.to(self.engine.device),
                    attention_mask=mask.to(self.engine.device),
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    pad_token_id=tokenizer.eos_token_id,
                )
                texts += [tokenizer.decode(row[width:], skip_special_tokens=True) for row in out]
        return texts

    @torch.no_grad()
    def mean_log_likelihoods(self, voice: Voice, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """One forward a pair."""
        scores = []
        with self.engine.voiced(voice, self.adapters, self.adapters_dir) as model:
            for prompt, answer in pairs:
                ids, target = prompt_ids(self.engine.tokenizer, prompt), answer_ids(self.engine.tokenizer, answer)
                tokens = torch.tensor([[*ids, *target]], device=self.engine.device)
                logits = model(input_ids=tokens).logits[0, len(ids) - 1 : -1].float()
                wanted = torch.tensor(target, device=self.engine.device)[:, None]
                scores.append(float(logits.log_softmax(-1).gather(1, wanted).mean()))
        return scores


_WHOLE = "whole"
"""transformers writes a checkpoint's files in place; this one, put there last, says that none is missing or short."""


def _mark_whole(checkpoint: Path) -> None:
    for file in checkpoint.iterdir():
        sync(file)
    write_atomic(checkpoint / _WHOLE, "")


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
        self.role_steps[role] = self.job.train.steps_of(role)

    def step(self, role: Role, step: int, loss: float) -> None:
        """Report one optimizer step of one role."""
        train, totals = self.job.train, {role: self.job.train.steps_of(role) for role in self.job.roles}
        self.losses[role], self.role_steps[role] = loss, step
        self.done += 1
        seconds = time.perf_counter() - self.start
        taken, whole = sum(self.role_steps.values()), sum(totals.values())
        self.on_progress(
            TrioProgress(
                step=self.job.steps * taken // whole,
                steps=self.job.steps,
                losses=dict(self.losses),
                examples_per_s=self.done * train.rows_of(role) / seconds,
                seconds_left=seconds / self.done * (whole - taken),
                role_steps=dict(self.role_steps),
                role_totals=totals,
            )
        )


def _stop_if_not_finite(logs: Mapping[str, float], role: Role, step: int, own: list[Example], job: TrioJob) -> None:
    values = (logs["loss"], logs.get("grad_norm", 0.0))
    if all(abs(value) < float("inf") for value in values):
        return
    rows = rows_of_step(step - 1, job.train.steps_of(role), job.train.rows_of(role), len(own))
    raise NonFiniteError(
        f"the loss of {role} is {values[0]} (gradient norm {values[1]}) at step {step} in the batch of examples "
        f"{', '.join(own[i].id[:12] for i in rows)}. Look at these examples, or lower [train] lr."
    )
