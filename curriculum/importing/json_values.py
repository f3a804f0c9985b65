"""JSON values of a file, one after another without reading all of it: an object a line, an array of them, or objects
over several lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TextIO

from curriculum.importing.encoding import NOT_UTF8, has_bytes
from ledger.errors import LunaError

Numbered = tuple[int, object]
"""(line from 1, the value, or a LunaError that says why there is none)."""

MOST_CHARACTERS = 256 << 20
"""Of one value."""
_CHUNK = 1 << 20
_MOST_DIGITS = 4000
_SPACE = re.compile(r"[\s,\ufeff]*")
_TOO_LONG = f"longer than {MOST_CHARACTERS >> 20} MiB, which no conversation is"


def _whole(digits: str) -> int | float:
    """A whole number; infinite where it has more digits than Python reads."""
    return int(digits) if len(digits) < _MOST_DIGITS else float(digits)


_DECODER = json.JSONDecoder(parse_int=_whole)


def json_values(text: TextIO) -> Iterator[Numbered]:
    """The values with their lines. A line that is none is named, and the next one is read; so is a broken object of an
    array whose objects begin lines."""
    head = text.read(1 << 16)
    begin = head.lstrip("\ufeff \t\r\n")
    first = begin.split("\n", 1)[0].rstrip()
    if begin.startswith("[") or first.endswith(("{", "[", ",", ":")):
        yield from _Running(text, head).values()
    else:
        yield from _lines(text, head)


def parsed(line: str) -> object:
    """The value of a line.

    Raises:
        LunaError: it is not JSON.
    """
    try:
        return _DECODER.decode(line)
    except RecursionError:
        raise LunaError("not JSON: nested too deeply") from None
    except ValueError as error:
        raise LunaError(f"not JSON: {error}") from None


def _lines(text: TextIO, head: str) -> Iterator[Numbered]:
    for number, line in enumerate(_split(text, head), start=1):
        if len(line) > MOST_CHARACTERS:
            yield number, LunaError(_TOO_LONG)
        elif has_bytes(line):
            yield number, LunaError(NOT_UTF8)
        elif line.strip():
            yield number, _value_or_error(line.removeprefix("\ufeff"))


def _value_or_error(line: str) -> object:
    try:
        return parsed(line)
    except LunaError as error:
        return error


def _split(text: TextIO, head: str) -> Iterator[str]:
    """The lines, of which the last of `head` may go on in the rest; of an endless one no more than its beginning."""
    *whole, rest = head.split("\n")
    yield from whole
    while True:
        more = text.readline(MOST_CHARACTERS)
        line = rest + more
        rest = ""
        if not line:
            return
        yield line
        while len(more) == MOST_CHARACTERS and not more.endswith("\n"):
            more = text.readline(MOST_CHARACTERS)


class _Running:
    """A window that moves over the text."""

    def __init__(self, text: TextIO, head: str) -> None:
        self._text = text
        self._window = head
        self._at = 0
        self._line = 1
        self._ended = False

    def values(self) -> Iterator[Numbered]:
        depth = 0
        while True:
            self._move(_SPACE.match(self._window, self._at).end())  # type: ignore[union-attr]  # it matches anywhere
            here = self._window[self._at : self._at + 1]
            if not here:
                if not self._fill():
                    return
            elif here == "[" and not depth:
                depth = 1
                self._move(self._at + 1)
            elif here == "]" and depth:
                depth = 0
                self._move(self._at + 1)
            else:
                line = self._line
                value = self._next()
                yield line, value
                if isinstance(value, LunaError) and not self._to_next_line():
                    yield line, LunaError("what follows it in the file could not be read")
                    return

    def _next(self) -> object:
        """The value that begins here, or why there is none."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._window, self._at)
            except RecursionError:
                return LunaError("not JSON: nested too deeply")
            except ValueError as error:
                if not self._may_go_on(error):
                    return LunaError(f"not JSON: {getattr(error, 'msg', error)}")
                if len(self._window) - self._at > MOST_CHARACTERS:
                    return LunaError(_TOO_LONG)
                self._fill()
            else:
                if end == len(self._window) and self._fill():
                    continue  # a number may go on
                self._move(end)
                return value

    def _may_go_on(self, error: ValueError) -> bool:
        """Whether more text can make it whole: it broke off at the end of the window, or in a text without end."""
        if self._ended:
            return False
        place = getattr(error, "pos", 0)
        return place > len(self._window) - 64 or str(error).startswith("Unterminated string")

    def _to_next_line(self) -> bool:
        """Go to the next line that begins an object, indented as this one; False if there is none."""
        begin = self._window.rfind("\n", 0, self._at) + 1
        indent = self._window[begin : self._at]
        if indent.strip("[ \t\r\ufeff"):
            return False
        pattern = re.compile(r"\n" + (re.escape(indent) if "[" not in indent else r"[ \t]*") + r"(?=\{)")
        while True:
            if match := pattern.search(self._window, self._at + 1):
                self._move(match.end())
                return True
            self._move(max(self._at, len(self._window) - 256))  # what is left may begin a line
            if not self._fill():
                self._move(len(self._window))
                return True

    def _move(self, to: int) -> None:
        self._line += self._window.count("\n", self._at, to)
        self._at = to

    def _fill(self) -> bool:
        """Read as much again as is unread; False at the end of the file."""
        more = "" if self._ended else self._text.read(max(_CHUNK, len(self._window) - self._at))
        self._ended = not more
        keep = max(0, self._at - 256)  # for the indentation of the line
        self._window = self._window[keep:] + more
        self._at -= keep
        return bool(more)
