"""Bytes as text: by byte order mark, or by where the zeros stand; UTF-8 otherwise."""

from __future__ import annotations

import io
import re
from typing import BinaryIO

from curriculum.jsonl import NOT_UTF8 as NOT_UTF8
from curriculum.jsonl import encoding_of

_HEAD = 4096
_BYTES = re.compile("[\udc80-\udcff]")


def text_of(stream: BinaryIO, newline: str | None = "\n") -> io.TextIOWrapper:
    """The stream as text, its lines ending at `newline` (None: any). A byte that is not UTF-8 becomes a surrogate, by
    which `has_bytes` knows it; what is wrong in another encoding becomes U+FFFD."""
    if isinstance(stream, io.BufferedReader):
        head = stream.peek(_HEAD)[:_HEAD]
    else:
        head = stream.read(_HEAD)
        stream.seek(0)
    encoding = encoding_of(head)
    return io.TextIOWrapper(stream, encoding, "surrogateescape" if encoding == "utf-8" else "replace", newline=newline)


def has_bytes(text: str) -> bool:
    """Whether some bytes of it were not UTF-8."""
    return not text.isascii() and _BYTES.search(text) is not None
