"""Examples as Parquet files named by their own SHA-256.

Equal examples in equal order give equal bytes (one pyarrow version): no time, no path and no pandas metadata
goes in. The columns are the fields of `Example`, so `datasets.load_dataset("parquet", data_files=...)` reads
them as they are.
"""

import dataclasses
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from curriculum.example import Example, make_example
from ledger.errors import LunaError
from ledger.files import sha256_bytes, sha256_json, write_atomic
from ledger.home import Home

_ROW_GROUP = 1 << 14
"""Rows that are turned into columns at a time, so that the texts of a long file are not in memory twice."""

_GROUP_CHARACTERS = 64 << 20

COLUMNS: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(Example))
_SIDE, _FILLING = "side", "filling"


def write_examples(path_or_dir: str | os.PathLike[str], examples: Iterable[Example]) -> str:
    """Write the examples and return the file's SHA-256 (hex).

    A directory gets `<sha>.parquet`; any other path is the file itself. The file appears whole or not at all.
    """
    data = encode_examples(examples)
    sha = sha256_bytes(data)
    path = Path(path_or_dir)
    write_atomic(path / f"{sha}.parquet" if path.is_dir() else path, data)
    return sha


def freeze(examples: Iterable[Example], home: Home) -> str:
    """Write the examples to the home's `data/<sha>.parquet` and return the SHA-256; a file already there is
    kept."""
    return freeze_bytes(encode_examples(examples), home)


def freeze_bytes(data: bytes, home: Home) -> str:
    """Write a Parquet file's bytes to the home's `data/<sha>.parquet` and return the SHA-256; a file already there is
    kept."""
    sha = sha256_bytes(data)
    if not home.data_file(sha).exists():
        write_atomic(home.data_file(sha), data)
    return sha


def read_examples(path: str | os.PathLike[str]) -> list[Example]:
    """Read a file of `write_examples`. Raises `LunaError` for a missing or foreign file and for a row whose
    id is not its content's."""
    return [_example(path, number, row) for number, row in enumerate(read_rows(path), start=1)]


def _example(path: str | os.PathLike[str], number: int, row: dict[str, Any]) -> Example:
    stored_id = row.pop("id", None)
    try:
        example = make_example(**row)
    except (TypeError, AttributeError, UnicodeError, LunaError) as error:
        raise LunaError(f"{path}, row {number}: {error}") from error
    if stored_id != example.id:
        raise LunaError(
            f"{path}, row {number}: id {str(stored_id)[:12]} is not the hash of the row's content "
            f"({example.id[:12]}); the file was changed, build it again."
        )
    return example


@dataclasses.dataclass(frozen=True)
class NewData:
    """What a generation found new, both sides of its split; `filling` has the ids of what was added to have enough."""

    train: list[Example]
    holdout: list[Example]
    filling: frozenset[str] = frozenset()

    @property
    def brought_sha(self) -> str:
        """Names the set of examples that was brought, whatever filled it up and whichever side an example is on."""
        return sha256_json(sorted({e.id for e in (*self.train, *self.holdout)} - self.filling))


def freeze_new_data(data: NewData, home: Home) -> str:
    """Write all of it to the home's `data/<sha>.parquet`, with a column for the side and one for what is filling."""
    rows = [*data.train, *data.holdout]
    columns: dict[str, list[object]] = {name: [getattr(example, name) for example in rows] for name in COLUMNS}
    columns[_SIDE] = [*(["train"] * len(data.train)), *(["holdout"] * len(data.holdout))]
    columns[_FILLING] = ["yes" if example.id in data.filling else "" for example in rows]
    return freeze_bytes(encode_columns(columns, {"weight"}), home)


def read_new_data(path: str | os.PathLike[str]) -> NewData:
    """Read a file of `freeze_new_data`.

    Raises:
        LunaError: the file is missing or foreign, or a row was changed.
    """
    sides: dict[str, list[Example]] = {"train": [], "holdout": []}
    filling: set[str] = set()
    for number, row in enumerate(read_rows(path), start=1):
        side, filled = row.pop(_SIDE, None), row.pop(_FILLING, None)
        if not isinstance(side, str) or side not in sides:
            raise LunaError(f"{path}, row {number}: {_SIDE} is {side!r}; the file was changed, restore it from a copy.")
        example = _example(path, number, row)
        sides[side].append(example)
        if filled:
            filling.add(example.id)
    return NewData(sides["train"], sides["holdout"], frozenset(filling))


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of any Parquet file as dictionaries. Raises `LunaError` if it is missing or not Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise LunaError(f"there is no data file at {path}; restore it or build it again.")
    try:
        # ParquetFile on one thread, not read_table: that one goes through pyarrow.dataset and its thread pools, and a
        # short program that has just read a file then sometimes aborts at exit ("terminate called without ...").
        source = pa.BufferReader(Path(path).read_bytes())
        rows: list[dict[str, Any]] = pq.ParquetFile(source, pre_buffer=False).read(use_threads=False).to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:  # of odd values, too
        raise LunaError(f"{path} is not a readable Parquet file ({error}); restore it or build it again.") from error
    return rows


def encode_examples(examples: Iterable[Example]) -> bytes:
    """The bytes of the Parquet file: one row an example, columns in the order of `COLUMNS`. Of examples that come one
    by one no more than a row group is held."""
    columns = ({name: [getattr(one, name) for one in rows] for name in COLUMNS} for rows in _groups(examples))
    return _encoded(COLUMNS, {"weight"}, columns)


def _groups(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Row groups: of at most `_ROW_GROUP` rows, and fewer where texts are long."""
    rows: list[Example] = []
    characters = 0
    for example in examples:
        rows.append(example)
        characters += len(example.context) + len(example.input) + len(example.output)
        if len(rows) == _ROW_GROUP or characters > _GROUP_CHARACTERS:
            yield rows
            rows, characters = [], 0
    if rows:
        yield rows


def encode_columns(columns: Mapping[str, Sequence[object]], numbers: Collection[str]) -> bytes:
    """The bytes of a Parquet file with these columns, zstd, no metadata: `numbers` are float64, the others text."""
    begins = range(0, len(next(iter(columns.values()))), _ROW_GROUP)
    groups = ({name: values[begin : begin + _ROW_GROUP] for name, values in columns.items()} for begin in begins)
    return _encoded(tuple(columns), numbers, groups)


def _encoded(names: Sequence[str], numbers: Collection[str], groups: Iterable[Mapping[str, Sequence[object]]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.float64() if name in numbers else pa.string()) for name in names])
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd", store_schema=False) as writer:
        written = False
        for group in groups:
            writer.write_table(pa.table(dict(group), schema=schema))
            written = True
        if not written:
            writer.write_table(schema.empty_table())
    return bytes(sink.getvalue().to_pybytes())
