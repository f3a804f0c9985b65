"""Answers through Hugging Face's and PEFT's own calls, one adapter at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from ledger.errors import LunaError
from ledger.roles import Voice
from trainers.config import LoraSettings
from trainers.generator import Answer, Likelihood, prompt_ids, row_ids
from trainers.models.adapters import check_shape

_ROWS_AT_ONCE = 16


def load_adapter(model: Any, folder: Path, lora: LoraSettings, trainable: bool) -> Any:
    """The model with a published adapter on it, after checking that it is of the settings' shape.

    Raises:
        LunaError: it is of another shape, broken, or of another base.
    """
    from peft import PeftModel

    check_shape(folder, lora.rank, lora.alpha)
    try:
        return PeftModel.from_pretrained(model, folder, is_trainable=trainable)
    except Exception as error:  # PEFT and safetensors raise many kinds for one cause
        first = str(error).splitlines()[0]
        raise LunaError(f"the adapter {folder} does not fit this base: {first}") from error


@contextmanager
def with_adapter(model: Any, folder: Path, lora: LoraSettings) -> Iterator[Any]:
    """The model with a published adapter on it; taken off again afterwards."""
    adapted = load_adapter(model, folder, lora, trainable=False)
    try:
        yield adapted
    finally:
        bare = adapted.unload()
        if hasattr(bare, "peft_config"):  # else PEFT warns of a second adapter when the next one comes
            del bare.peft_config


class PeftGenerator:
    """See :class:`trainers.generator.Generator`.

    Args:
        voiced: gives the model that speaks as a voice, for as long as its context is open.
    """

    def __init__(self, voiced: Callable[[Voice], AbstractContextManager[Any]], tokenizer: Any, device: torch.device):
        self.voiced, self.tokenizer, self.device = voiced, tokenizer, device

    @torch.no_grad()
    def generate(self, voice: Voice, prompts: Sequence[str], max_new_tokens: int) -> list[Answer]:
        """Greedy continuations, left-padded batches of like length."""
        tokenizer, answers = self.tokenizer, [Answer("", False)] * len(prompts)
        tokens = [prompt_ids(tokenizer, prompt) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda i: len(tokens[i]))
        with self.voiced(voice) as model:
            for start in range(0, len(prompts), _ROWS_AT_ONCE):
                batch = order[start : start + _ROWS_AT_ONCE]
                rows = [tokens[i] for i in batch]
                width = max(map(len, rows))
                ids = torch.tensor([[tokenizer.eos_token_id] * (width - len(r)) + r for r in rows])
                mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
                out = model.generate(
                    input_ids=ids.to(self.device),
                    attention_mask=mask.to(self.device),
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    pad_token_id=tokenizer.eos_token_id,
                )
                for i, row in zip(batch, out, strict=True):
                    new = row[width:]
                    ended = bool((new == tokenizer.eos_token_id).any())
                    answers[i] = Answer(tokenizer.decode(new, skip_special_tokens=True), ended)
        return answers

    @torch.no_grad()
    def likelihoods(
        self, voice: Voice, pairs: Sequence[tuple[str, str]], max_tokens: int | None = None
    ) -> list[Likelihood]:
        """One forward a pair."""
        scores = []
        with self.voiced(voice) as model:
            for prompt, answer in pairs:
                ids, begin = row_ids(self.tokenizer, prompt, answer, max_tokens)
                tokens = torch.tensor([ids], device=self.device)
                logits = model(input_ids=tokens).logits[0, begin - 1 : -1].float()
                wanted = tokens[0, begin:, None]
                greedy = bool((logits.gather(1, wanted) >= logits.amax(-1, keepdim=True)).all())
                scores.append(Likelihood(float(logits.log_softmax(-1).gather(1, wanted).mean()), greedy))
        return scores

    def count(self, prompt: str) -> int:
        """Tokens of a raw prompt."""
        return len(prompt_ids(self.tokenizer, prompt))
