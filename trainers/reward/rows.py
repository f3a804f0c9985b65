"""Labels and preference pairs as one table of answers, which a reward model is trained and measured on."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curriculum.reward import DIMENSIONS, TeacherLabel, TeacherPreference, prompt_groups
from ledger.files import sha256_json
from trainers.reward.model import HEADS

PAIR_MARGIN = 0.2


@dataclass(frozen=True)
class RewardRows:
    """Labels and pairs as rows of texts: each (prompt, answer) once, labelled rows first."""

    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    targets: Tensor
    """(rows, heads) float64; NaN where no label says."""
    groups: tuple[str, ...]
    """A name for each row's prompt; rows with equal names never stand on both sides of a split."""
    pairs: Tensor
    """(pairs, 2) row numbers, the better answer first."""
    labelled: int
    """Rows that come from labels; the rest occur in pairs only."""


def reward_rows(labels: Sequence[TeacherLabel], pairs: Sequence[TeacherPreference]) -> RewardRows:
    """Put labels and pairs into one table. Of equal (prompt, answer) the labels are averaged."""
    keys: dict[tuple[str, str], int] = {}
    prompt_ids: list[str] = []
    sums: list[list[list[float]]] = []

    def row_of(prompt_id: str, prompt: str, response: str) -> int:
        row = keys.setdefault((prompt, response), len(keys))
        if row == len(prompt_ids):
            prompt_ids.append(prompt_id)
            sums.append([])
        return row

    for label in labels:
        sums[row_of(label.prompt_id, label.prompt, label.response)].append(_target(label))
    labelled = len(keys)
    numbers = [
        (row_of(pair.prompt_id, pair.prompt, pair.chosen), row_of(pair.prompt_id, pair.prompt, pair.rejected))
        for pair in pairs
    ]
    unknown = [[math.nan] * len(HEADS)]
    targets = torch.stack([torch.tensor(found or unknown, dtype=torch.float64).mean(0) for found in sums])
    prompts, responses = zip(*keys, strict=True)
    groups = prompt_groups(list(zip(prompt_ids, prompts, strict=True)))
    return RewardRows(
        prompts, responses, targets, tuple(groups), torch.tensor(numbers, dtype=torch.long).reshape(-1, 2), labelled
    )


def pairs_of_labels(labels: Sequence[TeacherLabel], margin: float = PAIR_MARGIN) -> list[TeacherPreference]:
    """Every two answers to one prompt whose mean dimensions differ by at least `margin`, the better one first."""
    by_prompt: dict[str, list[TeacherLabel]] = {}
    for label in labels:
        by_prompt.setdefault(label.prompt, []).append(label)
    found = []
    for same in by_prompt.values():
        ordered = sorted(same, key=lambda label: -sum(label.reward.vector()))
        for better, worse in itertools.combinations(ordered, 2):
            lead = (sum(better.reward.vector()) - sum(worse.reward.vector())) / len(DIMENSIONS)
            if lead >= margin and better.response != worse.response:
                found.append(
                    TeacherPreference(
                        prompt_id=better.prompt_id,
                        category=better.category,
                        prompt=better.prompt,
                        chosen=better.response,
                        rejected=worse.response,
                        score_margin=lead,
                    )
                )
    return found


def _target(label: TeacherLabel) -> list[float]:
    """The nine values and the preference; a judge that gives no preference is taken to mean the dimensions' mean."""
    reward = label.reward
    mean = sum(reward.vector()) / len(DIMENSIONS)
    return [*reward.values(), mean if reward.scalar_preference is None else reward.scalar_preference]


def rows_sha(rows: RewardRows) -> str:
    """SHA-256 of what the model was trained and measured on: texts, values, groups, pairs."""
    targets = [[None if math.isnan(value) else value for value in row] for row in rows.targets.tolist()]
    return sha256_json([rows.prompts, rows.responses, targets, rows.groups, rows.pairs.tolist()])


def prompt_key(prompt: str) -> str:
    """A short hash by which a model remembers a prompt that it was trained on, case and white space aside."""
    return hashlib.sha256(" ".join(prompt.split()).casefold().encode()).hexdigest()[:16]
