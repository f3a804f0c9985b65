"""Hand-kept prompts that every new adapter is run against, and the checks of its answers. No model here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ledger.errors import LunaError
from ledger.files import read_toml, sha256_json
from ledger.roles import Role

_SHIPPED = Path(__file__).parent / "data" / "regression_prompts.toml"


class RegressionPrompt(BaseModel):
    """One prompt and what its answer must and must not hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    role: Role
    prompt: str = Field(min_length=1)
    must: tuple[str, ...] = ()
    """Texts that the answer must contain; case and white space do not matter."""
    must_not: tuple[str, ...] = ()
    """Texts that it must not contain."""
    tokens: int = Field(40, ge=1, le=400)
    """Longest answer."""


@dataclass(frozen=True)
class Outcome:
    """One prompt's answer, before and now."""

    id: str
    role: Role
    answer: str
    problems: tuple[str, ...]
    before: str | None = None
    """The other generation's answer; None where none was compared with."""
    problems_before: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """`fixed`, `broken`, `still wrong`, `changed`, `same`; without a comparison `ok` or `wrong`."""
        if self.before is None:
            return "wrong" if self.problems else "ok"
        if bool(self.problems) != bool(self.problems_before):
            return "broken" if self.problems else "fixed"
        if self.problems:
            return "still wrong"
        return "same" if self.answer == self.before else "changed"


def read_regression_prompts(path: Path | None = None) -> list[RegressionPrompt]:
    """The shipped prompts, or those of a file in the same shape, in file order.

    Raises:
        LunaError: no such file, broken TOML, or a table that is no prompt; named.
    """
    source = path or _SHIPPED
    tables = read_toml(source)
    found = []
    for name, table in tables.items():
        try:
            found.append(
                RegressionPrompt.model_validate({**table, "id": name} if isinstance(table, dict) else {"id": name})
            )
        except ValidationError as error:
            mistake = error.errors()[0]
            where = ".".join(map(str, (name, *mistake["loc"])))
            raise LunaError(
                f"{source}: {where}: {mistake['msg'].lower()}; write role and prompt, see the shipped file."
            ) from error
    if not found:
        raise LunaError(f"{source} holds no prompt; write a table with role and prompt.")
    return found


def prompts_sha(prompts: Sequence[RegressionPrompt]) -> str:
    """SHA-256 over the prompts, by which stored answers are known to be answers to them."""
    return sha256_json([prompt.model_dump(mode="json") for prompt in prompts])


def problems(prompt: RegressionPrompt, answer: str) -> tuple[str, ...]:
    """What is wrong with an answer, one clause a fault."""
    text = _plain(answer)
    missing = [f"{wanted!r} is missing" for wanted in prompt.must if _plain(wanted) not in text]
    return (*missing, *(f"{unwanted!r} is there" for unwanted in prompt.must_not if _plain(unwanted) in text))


def word_diff(before: str, after: str) -> str:
    """The words of two answers as a diff: `[-removed-]`, `{+added+}`, the rest as it is."""
    old, new = before.split(), after.split()
    pieces: list[str] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(" ".join(old[a:b]))
            continue
        pieces += [f"[-{' '.join(old[a:b])}-]"] if b > a else []
        pieces += [f"{{+{' '.join(new[c:d])}+}}"] if d > c else []
    return " ".join(pieces)


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("’", "'")).casefold().strip()
