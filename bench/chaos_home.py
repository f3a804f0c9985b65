"""The homes that faults meet: made without Ray, fed, and examined afterwards."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cluster.request import GenerationRequest, PinnedBase
from cluster.settings import settings_of
from curriculum.example import make_example
from curriculum.parquet import write_examples
from ledger.database.connection import connect
from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import ROLES
from ledger.store import Ledger
from ledger.verification.ledger import verify
from trainers.models.frozen import prepare_base

LINEAGE = "main"

SETTINGS = """
profile = "tiny"
[train]
steps = 4
batch_size = 4
dtype = "float32"
checkpoint_every_steps = 2
threads = 1
[data]
fill = false
conversations = false
[eval]
items = 24
agl_items = 14
extra_items = 0
bound_items = 0
probe_tokens = 4
everyday_items = 0
[gates]
min_items = 10
recall_min = 0.0
generalization_min = 0.0
closed_mastered = 0.0
significance = 1e-9
bound_min = 0.0
"""
"""A generation of a second or two whose gates let nearly all pass: what is learned is no matter here."""

_EXAMPLES = 200

Accepted = Mapping[int, tuple[str, ...]]
"""Adapters of accepted generations, by number."""


@dataclass(frozen=True)
class Found:
    """What an examination of a home found wrong."""

    lost: tuple[str, ...]
    twice: tuple[str, ...]
    unclean: tuple[str, ...]


def new_home(root: Path, settings: str = SETTINGS) -> Home:
    """A home with its base and an empty lineage."""
    home = Home(root).create()
    home.settings_file.write_text(settings)
    base = prepare_base(settings_of(home).base, home)
    with Ledger.create(home) as ledger:
        ledger.create_lineage(LINEAGE, base.sha)
    return home


def bring(home: Home, number: int) -> str:
    """New data for the generation of this number; returns its name in the inbox."""
    examples = [
        make_example(
            role=role, stage="fundamentals", category="agl/comparison", kind="pure", input=f"{i} even?",
            output="●" if i % 2 == 0 else "⊥", source="chaos",
        )
        for role in ROLES
        for i in range(1000 * number, 1000 * number + _EXAMPLES)
    ]  # fmt: skip
    return write_examples(home.inbox_dir, examples)


def request_of(home: Home, data: str) -> GenerationRequest:
    """What `luna generation run --data` asks for."""
    settings = settings_of(home)
    base = prepare_base(settings.base, home)
    return GenerationRequest(settings=settings, base=PinnedBase(source=base.source, sha=base.sha), data=(data,))


def accepted(home: Home) -> dict[int, tuple[str, ...]]:
    """The accepted generations that the ledger knows."""
    with Ledger.open(home) as ledger:
        found: dict[int, tuple[str, ...]] = {}
        for row in ledger.rows(LINEAGE):
            if row.verdict == "accepted":
                found[row.gen_id] = (*found.get(row.gen_id, ()), row.child_sha)
    return found


def examine(home: Home, witnessed: Accepted) -> Found:
    """What is wrong with a home in which these generations were accepted."""
    try:
        there = accepted(home)
        twice = tuple(f"{name} is there {n} times" for name, n in _entries(home).items() if n > 1)
        unclean = tuple(str(problem) for problem in verify(home))
    except LunaError as error:
        return Found((), (), (f"the home cannot be read: {error}",))
    lost = tuple(f"G{gen} is lost" for gen, shas in sorted(witnessed.items()) if there.get(gen) != shas)
    return Found(lost, twice, unclean)


def _entries(home: Home) -> Counter[str]:
    """How often the ledger has each entry, by what it says it is; times and sums left out."""
    with closing(connect(home.db, read_only=True)) as connection:
        entries = connection.execute("SELECT kind, lineage, gen_id, role, body FROM entries").fetchall()
    named = (("eval", "eval"), ("head", "to_gen"))
    return Counter(
        " ".join(
            str(part)
            for part in (
                kind, lineage, f"G{gen_id}", role or "", *(json.loads(body)[key] for of, key in named if of == kind)
            )
        )
        for kind, lineage, gen_id, role, body in entries
    )  # fmt: skip


_NO_SENTENCE = re.compile(r"Traceback|^\w*(Error|Exception)\b")


def unspoken(said: str) -> bool:
    """Whether a reason is none that a user could read: empty, several lines, or an exception's name."""
    return not said.strip() or "\n" in said.strip() or _NO_SENTENCE.search(said) is not None
