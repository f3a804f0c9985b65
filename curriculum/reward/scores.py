"""What a reward model gave to a generation's examples, as a Parquet file named by its SHA-256."""

from __future__ import annotations

import os
from collections.abc import Mapping

from curriculum.parquet import encode_columns, freeze_bytes, read_rows
from curriculum.reward.manifold import VALUES, RewardOutput
from ledger.errors import LunaError
from ledger.home import Home


def freeze_scores(scores: Mapping[str, RewardOutput], home: Home) -> str:
    """Write the nine values of each example (by its id, in the order of ids) to `data/<sha>.parquet`; returns the SHA.

    Equal scores give equal bytes; a file already there is kept.
    """
    rows = sorted(scores.items())
    columns: dict[str, list[object]] = {"id": [name for name, _ in rows]}
    columns |= {value: [getattr(score, value) for _, score in rows] for value in VALUES}
    return freeze_bytes(encode_columns(columns, VALUES), home)


def read_scores(path: str | os.PathLike[str]) -> dict[str, tuple[float, ...]]:
    """Example id to the nine values of `VALUES`, in order.

    Raises:
        LunaError: the file is missing or foreign.
    """
    try:
        return {row["id"]: tuple(float(row[value]) for value in VALUES) for row in read_rows(path)}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise LunaError(f"{path} holds no scores of a reward model ({error!r}); restore it from a copy.") from error
