"""Answers that are to be judged: their record, their files, and a writer for machines without a model."""

from __future__ import annotations

import functools
import re
import tomllib
from pathlib import Path
from random import Random

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from curriculum.jsonl import BadLine, explain, numbered_lines, parse_line
from curriculum.reward.labels import Source, Text
from curriculum.teacher.asking import style_of
from curriculum.teacher.seed_prompts import SeedPrompt
from ledger.errors import LunaError
from ledger.files import canonical_json, sha256_bytes

OFFLINE_WRITER = "templates-1"
"""Name of the offline writer, as a candidate's `model`."""

_TEMPLATES = Path(__file__).resolve().parent.parent / "data" / "offline_candidates.toml"
_OTHER_CATEGORY = "agency"
"""Whose templates prompts of unknown categories get."""


class Candidate(BaseModel):
    """One answer to one prompt; one line of `candidates.jsonl`. Fields of other files' lines are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str = ""
    """`<prompt id>/<number>/<hash of prompt and answer>`: another text is another candidate."""
    prompt_id: str = ""
    category: str = "imported"
    prompt: Text
    response: Text
    number: int = Field(0, ge=0)
    style: str = ""
    source: Source = "imported"
    model: str = ""
    """Who wrote it."""


def make_candidate(prompt: SeedPrompt, number: int, response: str, source: Source, model: str) -> Candidate:
    """The record of an answer to a prompt."""
    return Candidate(
        id=candidate_id(prompt.id, number, prompt.text, response),
        prompt_id=prompt.id,
        category=prompt.category,
        prompt=prompt.text,
        response=response,
        number=number,
        style=style_of(number),
        source=source,
        model=model,
    )


def candidate_id(prompt_id: str, number: int, prompt: str, response: str) -> str:
    """Names an answer by its prompt, its number, and its content."""
    return f"{prompt_id}/{number}/{sha256_bytes(canonical_json([prompt, response]).encode())[:12]}"


def read_candidates(path: Path) -> tuple[list[Candidate], list[BadLine]]:
    """The answers of a JSONL file, each text to a prompt once, in file order, and its lines that are none.

    A line needs `prompt` and `response`.

    Raises:
        LunaError: no such file, or no answer in it.
    """
    found: dict[tuple[str, str], Candidate] = {}
    bad: list[BadLine] = []
    for number, line in numbered_lines(path):
        try:
            one = Candidate.model_validate(parse_line(line))
        except (ValidationError, LunaError) as error:
            told = explain(error) if isinstance(error, ValidationError) else str(error)
            bad.append(BadLine(path.name, number, told))
            continue
        prompt_id = one.prompt_id or f"{one.category}/{sha256_bytes(one.prompt.encode())[:12]}"
        named = {"prompt_id": prompt_id, "id": candidate_id(prompt_id, one.number, one.prompt, one.response)}
        found.setdefault((one.prompt, one.response), one.model_copy(update=named))
    if not found:
        first = f" The first: {bad[0]}." if bad else ""
        raise LunaError(f"{path} holds no answer to judge; each line needs prompt and response.{first}")
    return list(found.values()), bad


def write_offline(prompt: SeedPrompt, number: int, seed: int) -> str:
    """An answer from hand-written templates, in the style that `number` has. Equal arguments give equal texts."""
    texts = _templates()[style_of(number)]
    rng = Random(f"{seed} {prompt.id} {number}")
    words = [word for word in re.findall(r"[^\W\d_]{5,}", prompt.text) if word.casefold() not in _COMMON]
    a, b = rng.sample(words, 2) if len(words) > 1 else ("it", "that")
    chosen = texts.get(prompt.category) or texts[_OTHER_CATEGORY]
    return rng.choice(chosen).format(a=f'"{a.casefold()}"', b=f'"{b.casefold()}"')


@functools.cache
def _templates() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads(_TEMPLATES.read_text(encoding="utf-8"))


_FILLERS = (
    "about after again because before being could every everyone first going honestly keeps makes might never "
    "nobody other really right should somebody someone still their there these thing things think those three "
    "through today under until wants where which while without would years yesterday"
)

_COMMON = frozenset(_FILLERS.split())
