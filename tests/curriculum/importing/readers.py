"""What reads a file of the user's own data, for tests that give it anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from curriculum.importing import ImportOptions, import_paths
from curriculum.importing.sources import KNOWN


def importing(suffix: str) -> Callable[[Path], object]:
    """Import the bytes of a file as if it had this ending."""

    def read(path: Path) -> object:
        named = path.with_suffix(suffix)
        named.write_bytes(path.read_bytes())
        return import_paths([str(named)], ImportOptions())

    return read


READERS: tuple[tuple[str, Callable[[Path], object]], ...] = tuple(
    (f"import {suffix}", importing(suffix)) for suffix in KNOWN
)
"""(name, reader of a path): each raises nothing but `LunaError`."""
