"""The forms in which people have their data, told apart by a record's keys.

To add a form: write a module with `NAME`, `matches(record)` and `read(record, note)`, and put it into `FORMATS` before
any form whose keys it has as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

from curriculum.importing.formats import (
    alpaca,
    chatgpt,
    claude,
    completion,
    messages,
    pairs,
    records,
    sharegpt,
    webui,
)
from curriculum.importing.formats.values import kind_of
from curriculum.importing.found import Found, Note
from ledger.errors import LunaError


class Format(Protocol):
    NAME: str

    def matches(self, record: Mapping[str, Any]) -> bool: ...

    def read(self, record: Mapping[str, Any], note: Note) -> list[Found]: ...


FORMATS = cast("tuple[Format, ...]", (chatgpt, claude, webui, pairs, messages, sharegpt, alpaca, completion, records))

_NEEDED = "'input' and 'output', 'messages', or the keys of another form (docs/how-to/own-data.md)"


def format_of(record: object) -> Format:
    """The form of a record.

    Raises:
        LunaError: it is none that is known.
    """
    if not isinstance(record, Mapping):
        raise LunaError(f"expected a JSON object, found {kind_of(record)}")
    for form in FORMATS:
        if form.matches(record):
            return form
    keys = ", ".join(str(key)[:30] for key in list(record)[:8])
    raise LunaError(f"found the keys {keys or 'none'}; needed: {_NEEDED}")
