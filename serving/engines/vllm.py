"""vLLM's engine with LoRA adapters, and its own OpenAI application over it.

vLLM's parts that are used here are internal (the names are those of 0.32, which is pinned). What was measured about
them is in docs/explanation/serving.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from starlette.types import ASGIApp

from curriculum.transcript import LengthSettings
from ledger.errors import LunaError
from ledger.files import publish_dir, sha256_file, temporary_beside
from ledger.metadata import CONFIG_FILE, MODEL_FILE
from ledger.roles import BASE
from serving.engine import EngineName, Piece, Sampling
from serving.engines.validate import TARGET_MODULES, Shape
from serving.settings import ServingSettings
from serving.table import Adapter

_BASE_WEIGHTS = "base-weights"
"""vLLM's name for the model without adapter. Not offered: see `zero_adapter`."""

_ZERO_RANK = 8

_IDENTITY_TEMPLATE = "{{ messages[0]['content'] }}"
"""The chat template: the one message holds the rendered prompt."""


class VllmEngine:
    """See :class:`serving.engine.Engine`."""

    name: EngineName = "vllm"

    def __init__(
        self, base: Path, shapes: Mapping[str, Shape], zero_dir: Path, settings: ServingSettings, text: LengthSettings
    ):
        self.base, self.shapes, self.zero_dir, self.settings, self.text = base, shapes, zero_dir, settings, text
        self._engine: Any = None
        self._tokenizer_dir = tempfile.TemporaryDirectory(prefix="luna-tokenizer-")
        self._models: Any = None

    async def start(self) -> ASGIApp:
        """Load the base; returns the OpenAI application, with the base served as `base`."""
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
        from vllm.platforms import current_platform
        from vllm.utils.argparse_utils import FlexibleArgumentParser
        from vllm.v1.engine.async_llm import AsyncLLM

        on_cpu = current_platform.is_cpu()
        if on_cpu:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(self.settings.cpu_kv_cache_gib))
        flags = engine_arguments(self.base, self.settings, self.text.max_tokens, on_cpu)
        flags.append(f"--tokenizer={_write_tokenizer(self.base, Path(self._tokenizer_dir.name))}")
        args = make_arg_parser(FlexibleArgumentParser()).parse_args(flags)
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(args))
        tasks = await self._engine.get_supported_tasks()
        app = build_app(args, tasks, self._engine.model_config)
        await init_app_state(self._engine, app.state, args, tasks)
        app.state.server = type("Server", (), {})()  # vLLM sets .should_exit on it when the engine dies
        self._models = app.state.openai_serving_models
        if on_cpu:
            await self._load(BASE, zero_adapter(self.zero_dir, self.shapes))
        return app

    @property
    def base_name(self) -> str:
        """Under which name the application answers as the untouched base."""
        return BASE if BASE in self._models.lora_requests else _BASE_WEIGHTS

    def list_names(self, names: Callable[[], Mapping[str, Adapter | None]]) -> None:
        """Let /v1/models list what `names()` gives: public name -> adapter, None for the base."""

        async def cards() -> Any:
            from vllm.entrypoints.serve.engine.protocol import ModelCard, ModelPermission

            listed = await self._models.registry.show_available_models()
            length = listed.data[0].max_model_len
            listed.data = [
                ModelCard(
                    id=name,
                    root=adapter.sha if adapter else BASE,
                    parent=BASE if adapter else None,
                    max_model_len=length,
                    permission=[ModelPermission()],
                )
                for name, adapter in names().items()
            ]
            return listed

        self._models.show_available_models = cards

    async def load(self, adapter: Adapter, folder: Path) -> None:
        """Make an adapter ready under its own name. It must have been validated."""
        if adapter.name not in self._models.lora_requests:
            await self._load(adapter.name, folder)

    async def unload(self, adapter: Adapter) -> None:
        """Forget an adapter and free its memory. No request may use it."""
        request = self._models.lora_requests.pop(adapter.name, None)
        if request is not None:
            # vLLM's own unload route only forgets the name.
            await self._engine.remove_lora(request.lora_int_id)

    def count(self, prompt: str) -> int:
        """Tokens of a raw prompt, with the tokenizer's own beginning-of-text if it has one."""
        return len(self._tokenizer.encode(prompt))

    async def speak(self, name: str, prompt: str, sampling: Sampling) -> AsyncIterator[Piece]:
        """See :class:`serving.engine.Engine`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        tokens = self._tokenizer.encode(prompt)
        room = self.text.max_tokens - len(tokens)
        if room < 1:
            raise LunaError(
                f"the prompt has {len(tokens)} tokens; at most {self.text.max_tokens - 1} can be answered here "
                "([text] max_tokens)."
            )
        params = SamplingParams(
            max_tokens=min(sampling.max_tokens, room),
            temperature=sampling.temperature,
            seed=sampling.seed,
            output_kind=RequestOutputKind.DELTA,
        )
        said = 0
        # Closing this generator throws GeneratorExit into vLLM's, which aborts the request.
        async for output in self._engine.generate(
            {"prompt_token_ids": tokens}, params, f"speak-{uuid.uuid4().hex}", lora_request=self._request(name)
        ):
            part = output.outputs[0]
            said += len(part.token_ids)
            yield Piece(part.text, said, len(tokens), _finish(part.finish_reason))

    async def score(self, name: str, rows: Sequence[tuple[Sequence[int], int]]) -> list[tuple[float, bool]]:
        """See :class:`serving.engine.Engine`."""
        return list(await asyncio.gather(*(self._score(name, list(tokens), begins) for tokens, begins in rows)))

    async def _score(self, name: str, tokens: list[int], begins: int) -> tuple[float, bool]:
        from vllm import SamplingParams

        # One token must be generated; what counts is what the prompt's own tokens were worth. Where a row is as long
        # as may be (its answer was cut), its last token makes room for that one.
        tokens = tokens[: self.text.max_tokens - 1]
        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        prompt_logprobs: Any = None
        async for output in self._engine.generate(
            {"prompt_token_ids": tokens}, params, f"score-{uuid.uuid4().hex}", lora_request=self._request(name)
        ):
            prompt_logprobs = output.prompt_logprobs or prompt_logprobs
        own = [prompt_logprobs[at][tokens[at]] for at in range(begins, len(tokens))]
        return float(sum(token.logprob for token in own) / len(own)), all(token.rank == 1 for token in own)

    def metrics(self) -> str:
        """vLLM's own, from this process."""
        from prometheus_client import generate_latest

        return generate_latest().decode()

    async def check_health(self) -> None:
        """Raises when the engine process is dead."""
        await self._engine.check_health()

    def stop(self) -> None:
        with contextlib.suppress(Exception):
            self._engine.shutdown()

    @property
    def _tokenizer(self) -> Any:
        return self._engine.get_tokenizer()

    def _request(self, name: str) -> Any:
        """vLLM's LoRA request of an adapter; None is the model without."""
        return None if name == _BASE_WEIGHTS else self._models.lora_requests[name]

    async def _load(self, name: str, folder: Path) -> None:
        from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest

        answer = await self._models.load_lora_adapter(LoadLoRAAdapterRequest(lora_name=name, lora_path=str(folder)))
        if not isinstance(answer, str):
            raise LunaError(f"vLLM did not load {name} from {folder}: {answer.error.message}")


def engine_arguments(base: Path, settings: ServingSettings, max_tokens: int, on_cpu: bool) -> list[str]:
    """The flags of vLLM's own server that give the same engine."""
    # One batch mixes at most max_loras adapters; the others wait in host memory, the base's twin among them.
    held = 3 * settings.loaded_generations + 1
    arguments = [
        f"--model={base}", f"--served-model-name={_BASE_WEIGHTS}", "--enable-lora",
        f"--max-lora-rank={settings.max_lora_rank}", f"--max-loras={min(settings.max_loras, held)}",
        f"--max-cpu-loras={held}", f"--max-model-len={max_tokens}",
        f"--max-num-seqs={settings.max_num_seqs}", f"--dtype={_dtype(settings, on_cpu)}", "--generation-config=vllm",
        f"--chat-template={_IDENTITY_TEMPLATE}", "--disable-fastapi-docs",
        # The most that any answer gets, and what one gets that asks for no number.
        f"--override-generation-config={json.dumps({'max_new_tokens': settings.max_tokens})}",
    ]  # fmt: skip
    if on_cpu:
        return [*arguments, "--enforce-eager", "--worker-extension-cls=serving.engines.cpu_lora.WorkerExtension"]
    return [*arguments, f"--gpu-memory-utilization={settings.gpu_memory_utilization}"]


def _write_tokenizer(base: Path, folder: Path) -> Path:
    """The base's tokenizer, to which the name of a special token is text, as in training."""
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(base, local_files_only=True, split_special_tokens=True).save_pretrained(folder)
    return folder


def _dtype(settings: ServingSettings, on_cpu: bool) -> str:
    """As the trainers do: a CPU that does not multiply bfloat16 natively is faster in float32."""
    if settings.dtype != "auto" or not on_cpu:
        return settings.dtype
    import torch

    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "auto" if native else "float32"


def _finish(reason: str | None) -> Literal["stop", "length"] | None:
    return None if reason is None else "length" if reason == "length" else "stop"


def zero_adapter(folder: Path, shapes: Mapping[str, Shape]) -> Path:
    """An adapter that changes nothing, as `<folder>/<sha>`.

    vLLM's CPU kernels give a row without adapter the index -1, which is the last adapter of the batch: a base request
    that is batched with others can answer with an adapter's text. As an adapter of zeros the base keeps its own.
    """
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        if module.rsplit(".", 1)[-1] in TARGET_MODULES and len(shape) == 2:
            tensors[f"base_model.model.{module}.lora_A.weight"] = torch.zeros(_ZERO_RANK, shape[1])
            tensors[f"base_model.model.{module}.lora_B.weight"] = torch.zeros(shape[0], _ZERO_RANK)
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": _ZERO_RANK, "lora_alpha": _ZERO_RANK, "lora_dropout": 0.0,
        "bias": "none", "target_modules": sorted({name.split(".")[-3] for name in tensors}),
    }  # fmt: skip
    temporary = temporary_beside(folder / "zero")
    try:
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / MODEL_FILE, metadata={"format": "pt"})
        (temporary / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True))
        return publish_dir(temporary, folder / sha256_file(temporary / MODEL_FILE))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
