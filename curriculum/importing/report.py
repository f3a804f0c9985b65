"""The result of an import: what was read, and every line that was not."""

from dataclasses import dataclass

from curriculum.example import Example
from curriculum.jsonl import BadLine


@dataclass(frozen=True)
class ImportReport:
    examples: list[Example]
    """In file order, each content once."""
    problems: list[BadLine]
    duplicates: int
    """Examples that were left out because the same content came before."""
