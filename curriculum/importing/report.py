"""The result of an import: what was read, and every line that was not."""

from dataclasses import dataclass

from curriculum.example import Example


@dataclass(frozen=True)
class Problem:
    """One line that could not be read."""

    file: str
    line: int
    """Line of a text file, row of a Parquet file; both begin at 1."""
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class ImportReport:
    examples: list[Example]
    """In file order, each content once."""
    problems: list[Problem]
    duplicates: int
    """Examples that were left out because the same content came before."""
