"""Measuring a candidate through the engine that users talk to, where one is up: what is judged is what will answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from cluster.request import RunSpec
from cluster.server import client
from ledger.errors import LunaError
from ledger.records import EvalRecord
from ledger.roles import Voice
from serving import app
from serving.table import model_name
from trainers.evals.scoring import RolePlan, evaluate_role
from trainers.generator import prompt_ids, row_ids
from trainers.models.adapter_set import AdapterSet
from trainers.models.frozen import Base

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 64
"""Answers asked for in one call; between calls other users get their turn."""


class ServedGenerator:
    """See :class:`trainers.generator.Generator`: one generation of the running engine.

    Args:
        ask: calls a method of one engine replica and gives its result.
    """

    def __init__(self, ask: Callable[..., Any], tokenizer: Any, generation: int):
        self.ask, self.tokenizer, self.generation = ask, tokenizer, generation

    def generate(self, voice: Voice, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        texts: list[str] = []
        for start in range(0, len(prompts), _ROWS_AT_ONCE):
            texts += self.ask(
                "generate", model_name(voice, self.generation), prompts[start : start + _ROWS_AT_ONCE], max_new_tokens
            )
        return texts

    def count(self, prompt: str) -> int:
        return len(prompt_ids(self.tokenizer, prompt))

    def mean_log_likelihoods(
        self, voice: Voice, pairs: Sequence[tuple[str, str]], max_tokens: int | None = None
    ) -> list[float]:
        rows = [row_ids(self.tokenizer, prompt, answer, max_tokens) for prompt, answer in pairs]
        scores: list[float] = []
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            scores += self.ask("score", model_name(voice, self.generation), rows[start : start + _ROWS_AT_ONCE])
        return scores


class ServerFailedError(LunaError):
    """The server that a judgement is taken with is not there, or could not do it."""


def engine_of(spec: RunSpec) -> str | None:
    """The serving engine that candidates of this lineage are measured through; None where no server of it is up."""
    if not spec.settings.serving.evaluate_candidates or app.running() is None:
        return None
    try:
        state = client.state(spec.home)
    except LunaError as error:
        logger.warning("the server does not say what it serves: %s", error)
        return None
    return state["engine"] if (state["lineage"], state["base_sha"]) == (spec.lineage, spec.base.sha) else None


def evaluate_served(
    spec: RunSpec, plans: Sequence[RolePlan], compared: Compared, parent_gen: int | None, half: Half | None
) -> list[EvalRecord]:
    """Serve all that are compared under their own numbers, one when it is asked, and measure them there.

    The records say through which engine (`details.through`).

    Raises:
        ServerFailedError: no server of this lineage is up, or it could not do it.
    """
    settings, gen_id = spec.settings, spec.gen_id
    if (engine := engine_of(spec)) is None:
        raise ServerFailedError(f"the server that measured G{gen_id} is there no longer.")
    numbers = [(gen_id, compared.child), *compared.learned.items()]
    if parent_gen is not None and compared.parent is not None:
        numbers.insert(0, (parent_gen, compared.parent))
    tokenizer = _tokenizer(spec.base)

    def open_model(adapters: AdapterSet) -> ServedGenerator:
        number = next(number for number, known in numbers if known == adapters)
        # With each question anew: few are held at a time, and others may have been asked for meanwhile.
        return ServedGenerator(
            client.asker(spec.home), tokenizer, number, lambda: client.load(spec.home, number, adapters.shas)
        )

    try:
        client.retire_candidate(spec.home, gen_id)  # another blend may stand under this number
        models, own = Models(compared, open_model), (settings.eval, settings.gates, settings.text)
        found = [record for plan in plans for record in evaluate_role(models, plan, gen_id, *own, half)]
    except LunaError as error:
        raise ServerFailedError(f"the server could not measure G{gen_id}: {error}") from error
    return [record.model_copy(update={"details": {**record.details, "through": engine}}) for record in found]


def _tokenizer(base: Base) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base.path, local_files_only=True, split_special_tokens=True)
