"""A run's log: its lines for those who follow it, and a file under the run's folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ledger.files import explain_write_errors
from ledger.logs import LineHandler, listening, log_context

FILE = "run.log"

_FORMAT = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(about)s: %(message)s")


@contextmanager
def run_log(folder: Path, gen_id: int, keep: Callable[[str], None]) -> Iterator[None]:
    """Log to `folder/run.log` until the end of the block, and give each line to `keep`.

    Raises:
        LunaError: the file cannot be opened. A line that cannot be written later is lost, and stops nothing.
    """
    with explain_write_errors(folder / FILE):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / FILE).open("a", encoding="utf-8", buffering=1)

    def tell(record: logging.LogRecord) -> None:
        role, generation = record.role, record.generation  # type: ignore[attr-defined]  # LineHandler sets them
        keep(f"{role}: {record.getMessage()}" if role else record.getMessage())
        record.about = f"G{generation} {role}" if role else f"G{generation}"
        file.write(_FORMAT.format(record) + "\n")

    with file, listening(LineHandler(tell)), log_context(generation=gen_id):
        yield
