"""What a generation's parent makes of earlier examples, as a Parquet file named by its SHA-256.

Frozen, so that a plan that rests on it can be made again without the model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from curriculum.parquet import encode_columns, freeze_bytes, read_rows
from ledger.errors import LunaError
from ledger.home import Home


@dataclass(frozen=True)
class ParentView:
    """What the parent makes of one example."""

    nats: float
    """Mean log-likelihood of a token of the recorded answer and its end, in nats (<= 0)."""
    own: str = ""
    """The parent's own greedy answer; empty where none was asked, or none came to its end."""


def freeze_views(views: Mapping[str, ParentView], home: Home) -> str:
    """Write the views (by the id of the example, in the order of ids) to `data/<sha>.parquet`; returns the SHA.

    Equal views give equal bytes; a file already there is kept.
    """
    rows = sorted(views.items())
    columns: dict[str, list[object]] = {
        "id": [name for name, _ in rows],
        "nats": [view.nats for _, view in rows],
        "own": [view.own for _, view in rows],
    }
    return freeze_bytes(encode_columns(columns, {"nats"}), home)


def read_views(path: str | os.PathLike[str]) -> dict[str, ParentView]:
    """The view of each example, by its id.

    Raises:
        LunaError: the file is missing or foreign.
    """
    try:
        return {row["id"]: ParentView(float(row["nats"]), row["own"]) for row in read_rows(path)}
    except (KeyError, TypeError, ValueError) as error:
        raise LunaError(f"{path} holds no view of a parent ({error!r}); restore it from a copy.") from error
