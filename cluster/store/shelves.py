"""Where content lies under its SHA-256: whatever pyarrow opens, a folder or an address such as `s3://bucket/luna`."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from ledger.errors import LunaError
from ledger.files import write_atomic

PART_BYTES = 8 << 20
"""What is read, sent and written at a time."""


class Shelf(Protocol):
    """Content by name, whoever keeps it; `str` says where that is. Raises a LunaError for what cannot be done."""

    def has(self, sha: str, size: int) -> bool:
        """Whether so many bytes lie under a name."""
        ...

    def read(self, sha: str) -> Iterator[bytes]:
        """What lies under a name, in parts; nobody has verified it."""
        ...

    def write(self, sha: str, parts: Iterable[bytes]) -> None:
        """Put it under its name, whole or not at all."""
        ...


class FileShelf:
    """Files of one folder that pyarrow can open: local, NFS, S3, GCS, HDFS.

    Args:
        place: a path, or an address with a scheme.

    Raises:
        LunaError: pyarrow cannot open it.
    """

    def __init__(self, place: str):
        import pyarrow as pa
        from pyarrow import fs

        self._place = place
        try:
            where = place if "://" in place else str(Path(place).expanduser().absolute())
            self._files, self._folder = fs.FileSystem.from_uri(where)
            if not self._folder.strip("/"):
                raise pa.ArrowInvalid("it names no folder.")
        except (OSError, pa.ArrowException) as error:
            raise LunaError(
                f"[cluster] store = {place!r} cannot be opened: {_said(error)} Name a folder, or an address such as "
                "s3://bucket/luna."
            ) from error
        self._is_local = isinstance(self._files, fs.LocalFileSystem)

    def __str__(self) -> str:
        return f"the store {self._place}"

    def has(self, sha: str, size: int) -> bool:
        """See :class:`Shelf`."""
        from pyarrow import fs

        with self._explained("looked at"):
            info = self._files.get_file_info(self._path(sha))
            return bool(info.type == fs.FileType.File and info.size == size)

    def read(self, sha: str) -> Iterator[bytes]:
        """See :class:`Shelf`."""
        with self._explained("read"), self._files.open_input_stream(self._path(sha)) as stream:
            while part := stream.read(PART_BYTES):
                yield part

    def write(self, sha: str, parts: Iterable[bytes]) -> None:
        """See :class:`Shelf`."""
        if self._is_local:
            return write_atomic(Path(self._path(sha)), parts)
        # A stream that is broken off may leave what it has: under a name that nobody asks for.
        temporary = self._path(f".{sha}.{uuid.uuid4().hex[:8]}.tmp")
        with self._explained("written"):
            try:
                with self._files.open_output_stream(temporary) as stream:
                    for part in parts:
                        stream.write(part)
                self._files.move(temporary, self._path(sha))
            except BaseException:
                with suppress(Exception):
                    self._files.delete_file(temporary)
                raise

    def delete(self, sha: str) -> None:
        """Forget a name, if it is known."""
        with suppress(OSError):
            self._files.delete_file(self._path(sha))

    def _path(self, name: str) -> str:
        return f"{self._folder.rstrip('/')}/{name}"

    @contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LunaError(
                f"{self} could not be {done}: {_said(error)} Look whether this node reaches it and may use it "
                "([cluster] store in luna.toml), then run the same command again."
            ) from error


def parts_of(file: Path, size: int) -> Iterator[bytes]:
    """The first `size` bytes of a file.

    Raises:
        LunaError: it cannot be read, or has become shorter.
    """
    try:
        with file.open("rb") as stream:
            while size > 0:
                part = stream.read(min(size, PART_BYTES))
                if not part:
                    raise LunaError(f"{file} became shorter while it was read; run the same command again.")
                size -= len(part)
                yield part
    except OSError as error:
        raise LunaError(f"{file} cannot be read: {error.strerror or error}.") from error


def _said(error: BaseException) -> str:
    """The first line of an error, as a sentence."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return first if first.endswith(".") else f"{first}."
