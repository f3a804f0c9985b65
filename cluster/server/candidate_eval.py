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
from trainers.evals.exam import Compared, RolePlan
from trainers.evals.models import Models
from trainers.evals.scoring import evaluate_role
from trainers.generator import Answer, Likelihood, prompt_ids, row_ids
from trainers.models.adapter_set import AdapterSet
from trainers.models.frozen import Base

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 64
"""Answers asked for in one call; between calls other users get their turn."""


class ServedGenerator:
    """See :class:`trainers.generator.Generator`: one generation of the running engine.

    Args:
        ask: calls a method of one engine replica and gives its result.
        ready: lets the engine hold the generation; called before each question, since others may push it out.
    """

    def __init__(
        self, ask: Callable[..., Any], tokenizer: Any, generation: int, ready: Callable[[], None] = lambda: None
    ):
        self.ask, self.tokenizer, self.generation, self.ready = ask, tokenizer, generation, ready

    def generate(self, voice: Voice, prompts: Sequence[str], max_new_tokens: int) -> list[Answer]:
        return [Answer(*one) for one in self._ask_all("generate", voice, prompts, max_new_tokens)]

    def likelihoods(
        self, voice: Voice, pairs: Sequence[tuple[str, str]], max_tokens: int | None = None
    ) -> list[Likelihood]:
        rows = [row_ids(self.tokenizer, prompt, answer, max_tokens) for prompt, answer in pairs]
        return [Likelihood(*one) for one in self._ask_all("score", voice, rows)]

    def count(self, prompt: str) -> int:
        return len(prompt_ids(self.tokenizer, prompt))

    def _ask_all(self, method: str, voice: Voice, rows: Sequence[Any], *more: Any) -> list[Any]:
        answers: list[Any] = []
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            self.ready()
            answers += self.ask(method, model_name(voice, self.generation), rows[start : start + _ROWS_AT_ONCE], *more)
        return answers


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
    spec: RunSpec, engine: str, plans: Sequence[RolePlan], compared: Compared, parent_gen: int | None
) -> list[EvalRecord]:
    """Serve all that are compared under their own numbers, one when it is asked, and measure them there.

    The records say through which engine (`details.through`).

    Raises:
        ServerFailedError: no server of this lineage with this engine is up, or it could not do it.
    """
    settings, gen_id = spec.settings, spec.gen_id
    if engine_of(spec) != engine:
        raise ServerFailedError(f"the server ({engine}) that measured G{gen_id} is there no longer.")
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
        found = [record for plan in plans for record in evaluate_role(models, plan, gen_id, *own)]
    except LunaError as error:
        raise ServerFailedError(f"the server could not measure G{gen_id}: {error}") from error
    return [record.model_copy(update={"details": {**record.details, "through": engine}}) for record in found]


def _tokenizer(base: Base) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base.path, local_files_only=True, split_special_tokens=True)
