"""The files that the ledger names: bases, adapters and data, each against its hash."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ledger.errors import LunaError
from ledger.files import sha256_file
from ledger.home import Home
from ledger.metadata import CONFIG_FILE, METADATA_FILE, MODEL_FILE, contradictions, read_metadata
from ledger.records import GenerationRow, Lineage
from ledger.verification.problems import Problem
from ledger.verification.weights import weights_sha


def base_problems(home: Home, lineages: Iterable[Lineage]) -> Iterator[Problem]:
    """Every lineage's base is there, with the weights that name it."""
    users: dict[str, list[str]] = {}
    for lineage in lineages:
        users.setdefault(lineage.base_sha, []).append(lineage.name)
    for base_sha, names in users.items():
        folder = home.base_dir(base_sha)
        where = f"{folder.relative_to(home.root)} (base of {', '.join(names)})"
        hint = "restore the folder from a copy, or fetch the same base again"
        yield from _hash_problems("base", where, base_sha, folder, weights_sha, hint)


def adapter_problems(home: Home, rows: Iterable[GenerationRow]) -> Iterator[Problem]:
    """Every judged adapter is there, its bytes, configuration and metadata as the rows say.

    Equal training gives equal bytes: several rows can name one folder, whose metadata speaks for one of them.
    """
    users: dict[str, list[GenerationRow]] = {}
    for row in rows:
        users.setdefault(row.child_sha, []).append(row)
    for child_sha, named_by in users.items():
        folder = home.adapter_dir(child_sha)
        who = _generations(named_by)
        hint = f"restore {folder.relative_to(home.root)} from a copy, or `luna reproduce G{named_by[0].gen_id}`"
        file = folder / MODEL_FILE
        yield from _hash_problems(
            "adapter", f"{file.relative_to(home.root)} ({who})", child_sha, file, sha256_file, hint
        )
        if not folder.is_dir():
            continue
        yield from _config_problems(folder / CONFIG_FILE, who, home, hint)
        yield from _metadata_problems(folder, named_by, home, hint)


def _config_problems(path: Path, who: str, home: Home, hint: str) -> Iterator[Problem]:
    where = f"{path.relative_to(home.root)} ({who})"
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        yield Problem("adapter configuration missing", where, "a file", "none", hint)
    except (OSError, ValueError) as error:
        yield Problem("adapter configuration unreadable", where, "JSON", str(error), hint)


def _metadata_problems(folder: Path, named_by: list[GenerationRow], home: Home, hint: str) -> Iterator[Problem]:
    where = f"{(folder / METADATA_FILE).relative_to(home.root)} ({_generations(named_by)})"
    try:
        metadata = read_metadata(folder)
    except LunaError as error:
        yield Problem("metadata unreadable", where, "a JSON object", str(error), hint)
        return
    fewest = min((contradictions(metadata, row) for row in named_by), key=len)
    if fewest:
        yield Problem("metadata contradicts the ledger", where, "agreement", "; ".join(fewest), hint)


def data_problems(home: Home, rows: Iterable[GenerationRow]) -> Iterator[Problem]:
    """Every delta, training set, holdout, set of preference pairs and of scores is there with its bytes."""
    users: dict[tuple[str, str], list[GenerationRow]] = {}
    for row in rows:
        users.setdefault(("delta", row.data_delta_sha), []).append(row)
        users.setdefault(("training set", row.train_sha), []).append(row)
        optional = {
            "holdout": row.holdout_sha,
            "preference pairs": row.pref_sha,
            "held-out pairs": row.pref_holdout_sha,
            "reward scores": row.rewards_sha,
            "new data": row.collected_sha,
            "parent's view": row.view_sha,
            "base's own words": row.rehearsed_sha,
        }
        for kind, sha in optional.items():
            if sha:
                users.setdefault((kind, sha), []).append(row)
    for (kind, sha), named_by in users.items():
        file = home.data_file(sha)
        where = f"{file.relative_to(home.root)} ({_generations(named_by)})"
        yield from _hash_problems(kind, where, sha, file, sha256_file, "restore the file from a copy")


def _hash_problems(
    kind: str, where: str, expected: str, path: Path, hash_of: Callable[[Path], str], hint: str
) -> Iterator[Problem]:
    if not path.exists():
        yield Problem(f"{kind} missing", where, f"sha256 {expected}", "nothing", hint)
        return
    try:
        found = hash_of(path)
    except (OSError, LunaError) as error:
        yield Problem(f"{kind} unreadable", where, f"sha256 {expected}", str(error), hint)
        return
    if found != expected:
        yield Problem(f"{kind} changed", where, f"sha256 {expected}", f"sha256 {found}", hint)


def _generations(rows: list[GenerationRow]) -> str:
    """``G1 logical`` or, for a file of several rows, ``G1 creative+logical, G2 logical``."""
    roles: dict[tuple[str, int], list[str]] = {}
    for row in rows:
        roles.setdefault((row.lineage, row.gen_id), []).append(row.role)
    return ", ".join(f"{lineage} G{gen_id} {'+'.join(names)}" for (lineage, gen_id), names in roles.items())
