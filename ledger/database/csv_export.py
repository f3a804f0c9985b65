"""``lineage_ledger.csv``: one row per role and generation, derived from the chain and never read back."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from ledger.records import GenerationRow

FIELDS: tuple[str, ...] = tuple(GenerationRow.model_fields)
HEADER: tuple[str, ...] = ("GEN_ID", *FIELDS[1:], "row_sha")
"""The columns of DESIGN section 4 in their order and spelling, then Luna's own, ``row_sha`` last."""


def csv_text(rows: Iterable[tuple[GenerationRow, str]]) -> str:
    """The whole file for rows and their ``row_sha``, in the order given.

    Floats are written so that reading them gives the same float back; what was not measured is empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for row, row_sha in rows:
        writer.writerow([*(_cell(getattr(row, field)) for field in FIELDS), row_sha])
    return text.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)
