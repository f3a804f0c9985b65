"""What a reward model gave to a generation's examples, as a Parquet file named by its SHA-256."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from curriculum.parquet import read_rows
from curriculum.reward import VALUES, RewardOutput
from ledger.errors import LunaError
from ledger.files import sha256_bytes, write_atomic
from ledger.home import Home

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("id", *VALUES)


def freeze_scores(scores: Mapping[str, RewardOutput], home: Home) -> str:
    """Write the nine values of each example (by its id, in the order of ids) to `data/<sha>.parquet`; returns the SHA.

    Equal scores give equal bytes; a file already there is kept.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = sorted(scores.items())
    columns: dict[str, list[object]] = {"id": [name for name, _ in rows]}
    for value in VALUES:
        columns[value] = [getattr(score, value) for _, score in rows]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=_schema()), sink, compression="zstd", store_schema=False)
    data = bytes(sink.getvalue().to_pybytes())
    sha = sha256_bytes(data)
    if not home.data_file(sha).exists():
        write_atomic(home.data_file(sha), data)
    return sha


def read_scores(path: str | os.PathLike[str]) -> dict[str, tuple[float, ...]]:
    """Example id to the nine values of `curriculum.reward.VALUES`, in order.

    Raises:
        LunaError: the file is missing or foreign.
    """
    try:
        return {row["id"]: tuple(float(row[value]) for value in VALUES) for row in read_rows(path)}
    except (KeyError, TypeError) as error:
        raise LunaError(f"{path} holds no scores of a reward model ({error!r}); restore it from a copy.") from error


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(name, pa.string() if name == "id" else pa.float64()) for name in COLUMNS])
