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
    """

    def __init__(self, ask: Callable[..., Any], tokenizer: Any, generation: int):
        self.ask, self.tokenizer, self.generation = ask, tokenizer, generation

    def generate(self, voice: Voice, prompts: Sequence[str], max_new_tokens: int) -> list[Answer]:
        answers: list[Answer] = []
        for start in range(0, len(prompts), _ROWS_AT_ONCE):
            asked = prompts[start : start + _ROWS_AT_ONCE]
            found = self.ask("generate", model_name(voice, self.generation), asked, max_new_tokens)
            answers += [Answer(text, ended) for text, ended in found]
        return answers

    def count(self, prompt: str) -> int:
        return len(prompt_ids(self.tokenizer, prompt))

    def likelihoods(
        self, voice: Voice, pairs: Sequence[tuple[str, str]], max_tokens: int | None = None
    ) -> list[Likelihood]:
        rows = [row_ids(self.tokenizer, prompt, answer, max_tokens) for prompt, answer in pairs]
        scores: list[Likelihood] = []
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            found = self.ask("score", model_name(voice, self.generation), rows[start : start + _ROWS_AT_ONCE])
            scores += [Likelihood(mean, greedy) for mean, greedy in found]
        return scores


def evaluate_served(spec: RunSpec, plans: Sequence[RolePlan], candidate: AdapterSet) -> list[EvalRecord] | None:
    """Serve a candidate under its own number and measure it there; its records say so (`details.through`).

    Returns:
        None where no server of this lineage is up, or it could not do it; the trainers' model is asked then.
    """
    home, settings, gen_id = spec.home, spec.settings, spec.gen_id
    if not settings.serving.evaluate_candidates or app.running() is None:
        return None
    try:
        state = client.state(home)
        if (state["lineage"], state["base_sha"]) != (spec.lineage, spec.base.sha):
            return None
        client.load(home, gen_id, candidate.shas)
        logger.info("measuring G%d through the server (%s)", gen_id, state["engine"])
        generator = ServedGenerator(client.asker(home), _tokenizer(spec.base), gen_id)
        found = [
            record for plan in plans for record in evaluate_role(generator, plan, gen_id, settings.eval, settings.text)
        ]
    except LunaError as error:
        logger.warning("the server could not measure G%d: %s The trainers' own model is asked instead.", gen_id, error)
        return None
    return [record.model_copy(update={"details": {**record.details, "through": state["engine"]}}) for record in found]


def _tokenizer(base: Base) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base.path, local_files_only=True, split_special_tokens=True)
