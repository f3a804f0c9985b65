"""The one record type of all training and evaluation data."""

import dataclasses
from collections.abc import Iterable
from typing import Literal

from ledger.errors import LunaError
from ledger.files import canonical_json, sha256_bytes
from ledger.roles import ROLES, Role

Stage = Literal["fundamentals", "manual", "logs_specs", "conversations"]
Kind = Literal["pure", "hybrid"]
Scoring = Literal["exact", "open"]

STAGES: tuple[Stage, ...] = ("fundamentals", "manual", "logs_specs", "conversations")
KINDS: tuple[Kind, ...] = ("pure", "hybrid")

CLOSED_CATEGORIES: frozenset[str] = frozenset(
    {
        "emotional_agl",  # one emoji of the seven feelings
        "phase0/repeat",  # the nonsense pattern itself
        "phase0/reverse",
        "phase0/continue",
        "phase0/close",
    }
)
"""Categories whose answer is one short fixed text; every `agl/<family>` is closed as well."""


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One prompt and its answer. Build it with `make_example`, which checks the fields and computes the
    id."""

    id: str
    """SHA-256 (hex) of role, kind, context, input and output: equal content has equal ids in every data
    set."""
    role: Role
    stage: Stage
    category: str
    """What it teaches, such as `agl/chain` or `what_if`; decides how it is scored (`scoring_of`)."""
    kind: Kind
    """`pure`: AGL alone. `hybrid`: with natural language."""
    input: str
    output: str
    context: str = ""
    """Text that stands before the input in the prompt, such as the thesis that an antithesis answers; may be
    empty."""
    source: str = ""
    """Where it came from: `recipe/<category>/<template-id>`, `file/<name>:<line>`, `dialogue/<topic>`."""
    group: str = ""
    """The conversation or document it is a part of, such as `conversation/<id>`: all of it is trained on or all of it
    is held out. Empty: it stands for itself. Not part of the id."""
    weight: float = 1.0
    """Weight in the loss, at least 0; 1 is normal."""
    created_at: str = ""
    """ISO-8601 UTC time for the user's own data; empty for generated data, so that equal seeds give equal
    bytes."""


def example_id(role: str, kind: str, context: str, input: str, output: str) -> str:
    """SHA-256 (hex) of the canonical JSON of the five fields that make the content."""
    return sha256_bytes(canonical_json([role, kind, context, input, output]).encode())


def make_example(
    *,
    role: str,
    stage: str,
    category: str,
    kind: str,
    input: str,
    output: str,
    context: str = "",
    source: str = "",
    group: str = "",
    weight: float = 1.0,
    created_at: str = "",
) -> Example:
    """Check the fields, compute the id, return the example. Raises `LunaError` naming the field that is
    wrong."""
    if role not in ROLES:
        raise LunaError(f"example role is {role!r}; use one of {', '.join(ROLES)}.")
    if stage not in STAGES:
        raise LunaError(f"example stage is {stage!r}; use one of {', '.join(STAGES)}.")
    if kind not in KINDS:
        raise LunaError(f"example kind is {kind!r}; use one of {', '.join(KINDS)}.")
    if not input.strip() or not output.strip():
        empty = "input" if not input.strip() else "output"
        raise LunaError(
            f"example {empty} is empty (category {category!r}); every example needs a prompt and an answer."
        )
    if not 0 <= weight < float("inf"):
        raise LunaError(f"example weight is {weight!r}; it must be a finite number, at least 0.")
    return Example(
        id=example_id(role, kind, context, input, output),
        role=role,
        stage=stage,
        category=category,
        kind=kind,
        input=input,
        output=output,
        context=context,
        source=source,
        group=group,
        weight=float(weight),
        created_at=created_at,
    )


def scoring_of(example: Example) -> Scoring:
    """`exact` where the answer is closed (AGL and `CLOSED_CATEGORIES`): it must come whole; everything else, unknown
    categories too, is `open`."""
    closed = example.category.startswith("agl/") or example.category in CLOSED_CATEGORIES
    return "exact" if closed else "open"


def unique(examples: Iterable[Example]) -> list[Example]:
    """The examples without repeated ids, each at its first place."""
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(example.id, example)
    return list(first.values())
