"""What is in a set of examples: the numbers behind `luna curriculum inspect`."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from curriculum.example import Example, scoring_of


@dataclass(frozen=True)
class Lengths:
    """Words per text, split at white space."""

    shortest: int
    mean: float
    longest: int


@dataclass(frozen=True)
class Summary:
    examples: int
    distinct_inputs: int
    roles: dict[str, int]
    stages: dict[str, int]
    kinds: dict[str, int]
    scorings: dict[str, int]
    """Examples scored `exact` and by `choice`."""
    sources: dict[str, int]
    """Examples by the kind of their source, such as `recipe` or `file`."""
    groups: int
    """Conversations and documents that examples belong to."""
    categories: dict[str, int]
    """Examples a category, most frequent first; equal counts by name."""
    input_words: Lengths
    """Context included."""
    output_words: Lengths
    top_template: str
    """The source that most examples come from; for generated data that is the template. Empty for an empty
    set."""
    top_template_share: float
    """Its share of the set, in [0, 1]."""


def summarise(examples: Iterable[Example]) -> Summary:
    """Count a set; zeros for an empty one."""
    rows = list(examples)
    sources = _counts(row.source for row in rows)
    top, top_count = next(iter(sources.items()), ("", 0))
    return Summary(
        examples=len(rows),
        distinct_inputs=len({(row.role, row.context, row.input) for row in rows}),
        roles=_counts(row.role for row in rows),
        stages=_counts(row.stage for row in rows),
        kinds=_counts(row.kind for row in rows),
        scorings=_counts(scoring_of(row) for row in rows),
        sources=_counts(row.source.partition("/")[0] or "none" for row in rows),
        groups=len({row.group for row in rows} - {""}),
        categories=_counts(row.category for row in rows),
        input_words=_lengths(f"{row.context} {row.input}" for row in rows),
        output_words=_lengths(row.output for row in rows),
        top_template=top,
        top_template_share=top_count / len(rows) if rows else 0.0,
    )


def weights_in(file: Path) -> dict[str, float]:
    """The weight of each example of a data file, by id; empty for a file of something else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.BufferReader(file.read_bytes()), pre_buffer=False).read(
            ["id", "weight"], use_threads=False
        )
        return dict(zip(table["id"].to_pylist(), table["weight"].to_pylist(), strict=True))
    except (pa.ArrowException, OSError, KeyError):
        return {}


def reweighted(examples: Iterable[Example], before: Mapping[str, float]) -> int:
    """How many of the examples had another weight before."""
    return sum(before.get(example.id, example.weight) != example.weight for example in examples)


def _counts(keys: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(keys).items(), key=lambda item: (-item[1], item[0])))


def _lengths(texts: Iterable[str]) -> Lengths:
    words = [len(text.split()) for text in texts]
    return Lengths(min(words), sum(words) / len(words), max(words)) if words else Lengths(0, 0.0, 0)
