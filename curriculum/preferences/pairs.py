"""Preference pairs: two answers to one prompt, the better one first, and their origin.

They come from a judge's labels, from a person's corrections, and from a person's valence; `merge` puts them together.
Nothing here depends on the order in which labels or answers are given.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from curriculum.parquet import encode_columns, freeze_bytes, read_rows
from curriculum.reward import RewardOutput, TeacherLabel, example_weight
from ledger.errors import LunaError
from ledger.files import canonical_json, sha256_bytes, write_atomic
from ledger.home import Home
from ledger.roles import ROLES, Role

Origin = Literal["correction", "valence", "teacher", "imported", "rules"]
ORIGINS: tuple[Origin, ...] = get_args(Origin)
"""Where a preference comes from, strongest first; of two that contradict each other the stronger one wins."""

MARGIN_MOST = 2.0
"""Largest difference of two scalars in [-1, 1]."""

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")

CORRECTION_MARGIN = 1.0
"""Margin of a correction over the answer it corrects: a person rewrote it, and did not say by how much it is better."""


@dataclass(frozen=True, slots=True)
class Preference:
    """One pair. Build it with `make_preference`, which checks the fields and computes the id."""

    id: str
    """SHA-256 (hex) of role, context, prompt, chosen and rejected."""
    role: Role
    prompt: str
    context: str
    """Text before the prompt, as in `Example.context`; may be empty."""
    chosen: str
    rejected: str
    margin: float
    """How much better, in (0, 2]."""
    weight: float
    """Weight in the preference loss, in [0, 1]; 0 teaches nothing."""
    origin: Origin
    provenance: str
    """Who preferred and by what, as JSON: judge, ids of the labels or turns."""
    group: str = ""
    """The conversation it is from, as in `Example.group`; not part of the id."""

    @property
    def weighed(self) -> bool:
        """Whether its weight is that of a judge's label already."""
        return "teacher" in json.loads(self.provenance)


COLUMNS: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(Preference))


@dataclass(frozen=True, slots=True)
class JudgedTurn:
    """An answer that a person has judged: with a valence, a correction, or both."""

    turn: str
    """Id of the turn, for the record."""
    role: Role
    prompt: str
    answer: str
    context: str = ""
    valence: int | None = None
    """-2 to 2."""
    correction: str | None = None
    """What the person would rather have read."""
    group: str = ""
    """The conversation, as in `Example.group`."""


def make_preference(
    *,
    role: str,
    prompt: str,
    chosen: str,
    rejected: str,
    margin: float,
    origin: str,
    context: str = "",
    weight: float = 1.0,
    provenance: str = "{}",
    group: str = "",
) -> Preference:
    """Check the fields, compute the id, return the pair.

    Raises:
        LunaError: naming the field that is wrong.
    """
    texts = {"role": role, "context": context, "prompt": prompt, "chosen": chosen, "rejected": rejected}
    for name, text in (texts | {"origin": origin, "provenance": provenance}).items():
        if not isinstance(text, str):
            raise LunaError(f"preference {name} is of type {type(text).__name__}; it must be a text.")
        if _HALF_CHARACTER.search(text):
            raise LunaError(f"preference {name} holds half of a character; write the whole one, or leave it out.")
    if role not in ROLES:
        raise LunaError(f"preference role is {role!r}; use one of {', '.join(ROLES)}.")
    if origin not in ORIGINS:
        raise LunaError(f"preference origin is {origin!r}; use one of {', '.join(ORIGINS)}.")
    for name, text in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            raise LunaError(f"preference {name} is empty; every pair needs a prompt and two answers.")
    if chosen.strip() == rejected.strip():
        raise LunaError(f"both answers of a preference are {chosen[:60]!r}; a pair needs two different ones.")
    if not 0 < margin <= MARGIN_MOST:
        raise LunaError(f"preference margin is {margin!r}; it must be above 0 and at most {MARGIN_MOST:g}.")
    if not 0 <= weight <= 1:
        raise LunaError(f"preference weight is {weight!r}; it must be in [0, 1].")
    return Preference(
        id=sha256_bytes(canonical_json([role, context, prompt, chosen, rejected]).encode()),
        role=role,
        prompt=prompt,
        context=context,
        chosen=chosen,
        rejected=rejected,
        margin=float(margin),
        weight=float(weight),
        origin=origin,
        provenance=provenance,
        group=group,
    )


def scalar_of(reward: RewardOutput) -> float:
    """The number by which labelled answers are compared: the mean of the seven dimensions, in [-1, 1].

    A judge's own `scalar_preference` plays no part: not every judge gives one.
    """
    return math.fsum(reward.vector()) / len(reward.vector())


def label_pairs(
    labels: Iterable[TeacherLabel], role: Role = "dialectical", *, min_margin: float = 0.25, per_prompt: int = 6
) -> list[Preference]:
    """Pairs of answers to the same prompt whose scalars, by one judge, are at least `min_margin` apart.

    Of a prompt the `per_prompt` widest pairs are kept. Only labels of one source and teacher are compared. An answer
    that one judge labelled more than once has the mean. A pair's weight is that of the chosen answer's label, intensity
    · gate(safety), so that what is unsafe is never taught as the better answer.

    Raises:
        LunaError: `min_margin` is not in (0, 2], or `per_prompt` is below 1.
    """
    if not 0 < min_margin <= MARGIN_MOST:
        raise LunaError(f"min_margin is {min_margin!r}; it must be above 0 and at most {MARGIN_MOST:g}.")
    if per_prompt < 1:
        raise LunaError(f"per_prompt is {per_prompt}; keep at least one pair a prompt.")
    groups: dict[tuple[str, str, str], dict[str, list[TeacherLabel]]] = defaultdict(lambda: defaultdict(list))
    for one in labels:
        groups[one.source, one.teacher, one.prompt.strip()][one.response.strip()].append(one)
    pairs: list[Preference] = []
    for (source, teacher, prompt), answers in sorted(groups.items()):
        found = []
        for (a, of_a), (b, of_b) in itertools.combinations(sorted(answers.items()), 2):
            margin = _mean_scalar(of_a) - _mean_scalar(of_b)
            (better, labels_better), (worse, labels_worse) = ((a, of_a), (b, of_b))[:: 1 if margin > 0 else -1]
            if abs(margin) < min_margin or not better or not worse:
                continue
            found.append(
                make_preference(
                    role=role,
                    prompt=prompt,
                    chosen=better,
                    rejected=worse,
                    margin=min(abs(margin), MARGIN_MOST),
                    weight=min(example_weight(x.reward.reward_intensity, x.reward.safety_score) for x in labels_better),
                    origin=source if source in ORIGINS else "imported",
                    provenance=canonical_json(
                        {"teacher": teacher, "chosen": _ids(labels_better), "rejected": _ids(labels_worse)}
                    ),
                )
            )
        pairs += sorted(found, key=lambda pair: (-pair.margin, pair.id))[:per_prompt]
    return pairs


def correction_pairs(turns: Iterable[JudgedTurn]) -> list[Preference]:
    """What a person wrote instead, over the answer it corrects. A correction equal to its answer says nothing."""
    pairs = [
        make_preference(
            role=turn.role,
            prompt=turn.prompt,
            context=turn.context,
            chosen=turn.correction.strip(),
            rejected=turn.answer.strip(),
            margin=CORRECTION_MARGIN,
            origin="correction",
            provenance=canonical_json({"turn": turn.turn}),
            group=turn.group,
        )
        for turn in turns
        if turn.correction and turn.correction.strip() and turn.correction.strip() != turn.answer.strip()
    ]
    return _each_once(pairs)


def valence_pairs(turns: Iterable[JudgedTurn], *, min_steps: int = 2) -> list[Preference]:
    """Pairs of answers of one role to the same prompt and context whose valences are at least `min_steps` apart.

    The margin is half the difference in valence, so it lies in (0, 2]. An answer judged more than once has the mean.

    Raises:
        LunaError: a valence outside -2 to 2, or `min_steps` below 1.
    """
    if not 1 <= min_steps <= 4:
        raise LunaError(f"min_steps is {min_steps}; valences lie at most 4 steps apart, ask for 1 to 4.")
    groups: dict[tuple[Role, str, str], dict[str, list[JudgedTurn]]] = defaultdict(lambda: defaultdict(list))
    for turn in turns:
        if turn.valence is None:
            continue
        if not -2 <= turn.valence <= 2:
            raise LunaError(f"valence of turn {turn.turn} is {turn.valence}; it must be -2 to 2.")
        if turn.answer.strip():
            groups[turn.role, turn.context, turn.prompt][turn.answer.strip()].append(turn)
    pairs = []
    for (role, context, prompt), answers in sorted(groups.items()):
        for (a, of_a), (b, of_b) in itertools.combinations(sorted(answers.items()), 2):
            steps = _mean_valence(of_a) - _mean_valence(of_b)
            if abs(steps) < min_steps:
                continue
            (better, turns_better), (worse, turns_worse) = ((a, of_a), (b, of_b))[:: 1 if steps > 0 else -1]
            pairs.append(
                make_preference(
                    role=role,
                    prompt=prompt,
                    context=context,
                    chosen=better,
                    rejected=worse,
                    margin=abs(steps) / 2,
                    origin="valence",
                    provenance=canonical_json(
                        {
                            "chosen": sorted(x.turn for x in turns_better),
                            "rejected": sorted(x.turn for x in turns_worse),
                        }
                    ),
                    group=min(turn.group for turn in turns_better),
                )
            )
    return pairs


def merge(*sets: Sequence[Preference]) -> list[Preference]:
    """All pairs, each two answers once, sorted by id.

    Of pairs over the same two answers the strongest origin stands (`ORIGINS`); of equally strong ones that agree, the
    widest; equally strong ones that contradict each other are all left out.
    """
    groups: dict[tuple[str, str, str, frozenset[str]], list[Preference]] = defaultdict(list)
    for pair in itertools.chain(*sets):
        groups[pair.role, pair.context, pair.prompt, frozenset((pair.chosen, pair.rejected))].append(pair)
    kept = []
    for pairs in groups.values():
        strongest = min(ORIGINS.index(pair.origin) for pair in pairs)
        strong = [pair for pair in pairs if ORIGINS.index(pair.origin) == strongest]
        if len({pair.chosen for pair in strong}) == 1:
            kept.append(min(strong, key=lambda pair: (-pair.margin, -pair.weight, pair.provenance)))
    return sorted(kept, key=lambda pair: pair.id)


def freeze_preferences(pairs: Iterable[Preference], home: Home) -> str:
    """Write the pairs to the home's `data/<sha>.parquet` and return the SHA-256; a file already there is kept."""
    return freeze_bytes(encode_preferences(pairs), home)


def write_preferences(folder: Path, pairs: Iterable[Preference]) -> str:
    """Write the pairs to the folder's `<sha>.parquet` and return the SHA-256."""
    data = encode_preferences(pairs)
    sha = sha256_bytes(data)
    write_atomic(folder / f"{sha}.parquet", data)
    return sha


def encode_preferences(pairs: Iterable[Preference]) -> bytes:
    """The bytes of the Parquet file: one row a pair, in the order given. Equal pairs give equal bytes."""
    rows = list(pairs)
    return encode_columns({name: [getattr(pair, name) for pair in rows] for name in COLUMNS}, {"margin", "weight"})


def read_preference_set(path: str | os.PathLike[str]) -> list[Preference]:
    """Read a file of `freeze_preferences`.

    Raises:
        LunaError: the file is missing or foreign, or a row's id is not its content's.
    """
    pairs = []
    for number, row in enumerate(read_rows(path), start=1):
        stored = row.pop("id", None)
        try:
            pair = make_preference(**row)
        except (TypeError, LunaError) as error:
            raise LunaError(f"{path}, row {number}: {error}") from error
        if stored != pair.id:
            raise LunaError(
                f"{path}, row {number}: id {str(stored)[:12]} is not the hash of the row's content ({pair.id[:12]}); "
                "the file was changed, build it again."
            )
        pairs.append(pair)
    return pairs


def _mean_scalar(labels: Sequence[TeacherLabel]) -> float:
    return math.fsum(scalar_of(one.reward) for one in labels) / len(labels)


def _mean_valence(turns: Sequence[JudgedTurn]) -> float:
    return math.fsum(turn.valence or 0 for turn in turns) / len(turns)


def _ids(labels: Sequence[TeacherLabel]) -> list[str]:
    return sorted(one.id or one.prompt_id for one in labels)


def _each_once(pairs: Sequence[Preference]) -> list[Preference]:
    """Pairs without repeated ids, sorted by id."""
    first: dict[str, Preference] = {}
    for pair in sorted(pairs, key=lambda pair: (pair.id, pair.provenance)):
        first.setdefault(pair.id, pair)
    return list(first.values())
