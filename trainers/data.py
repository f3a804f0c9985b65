"""What a training job reads: examples and preference pairs by role, without those of weight 0, as token rows.

Weight 0 is taken out here, before any batch is formed, so that not even the order of what is left depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curriculum.example import Example
from curriculum.parquet import read_examples
from curriculum.preferences.pairs import Preference, read_preference_set
from curriculum.transcript import LengthSettings, fit
from ledger.errors import LunaError
from ledger.roles import Role
from trainers.generator import counter, row_ids
from trainers.job import TrioJob
from trainers.lean.packing import Row
from trainers.schedule import steps_for


@dataclass(frozen=True)
class RoleData:
    """By role and in file order, everything of a weight above 0."""

    examples: Mapping[Role, list[Example]]
    pairs: Mapping[Role, list[Preference]]
    shares: Mapping[Role, tuple[float, float]]
    """What a role's SFT and DPO loss are multiplied by (:func:`channel_shares`)."""
    replayed: frozenset[str] = frozenset()
    """Ids of the examples that are held to the parent."""


def read_role_data(job: TrioJob) -> RoleData:
    """The job's data; a channel that nothing is learned from has none.

    Raises:
        LunaError: a file is missing or broken, or a role has nothing to learn from.
    """
    channels, dual = job.channels, job.channels.mode == "dual"
    examples = [example for example in read_examples(job.train_file) if example.weight > 0]
    pairs: list[Preference] = []
    if dual and job.preference_file:
        pairs = [pair for pair in read_preference_set(job.preference_file) if pair.weight > 0]
    own_examples = {role: [e for e in examples if e.role == role] for role in job.roles}
    own_pairs = {role: [p for p in pairs if p.role == role] for role in job.roles}
    _check_schedule(job, own_examples)
    if empty := [role for role in job.roles if not own_examples[role] and not own_pairs[role]]:
        raise LunaError(
            f"{job.train_file} has no examples with a weight above 0 for {', '.join(empty)}"
            f"{', and there are no preference pairs' if dual else ''}; every role needs data to train on."
        )
    w_sft, w_pref = (channels.w_sft, channels.w_pref) if dual else (1.0, 0.0)
    shares = {
        role: channel_shares(w_sft, w_pref, bool(own_examples[role]), bool(own_pairs[role])) for role in job.roles
    }
    return RoleData(
        examples={role: own if shares[role][0] else [] for role, own in own_examples.items()},
        pairs={role: own if shares[role][1] else [] for role, own in own_pairs.items()},
        shares=shares,
        replayed=_replayed(job, examples),
    )


def _replayed(job: TrioJob, examples: Sequence[Example]) -> frozenset[str]:
    if not job.train.kl_weight or job.delta_file is None:
        return frozenset()
    return frozenset(e.id for e in examples) - {e.id for e in read_examples(job.delta_file)}


def _check_schedule(job: TrioJob, own_examples: Mapping[Role, list[Example]]) -> None:
    """Whether the rows are those of the planned steps, no more and no less."""
    for role, rows in own_examples.items():
        steps, planned = steps_for(len(rows), job.train.batch_size_of(role)), job.role_steps[role]
        if rows and steps != planned:
            raise LunaError(
                f"{job.train_file} has {len(rows)} rows for {role}, which make {steps} steps of "
                f"{job.train.batch_size_of(role)}, and {planned} steps are planned; restore the file from a copy."
            )


def channel_shares(w_sft: float, w_pref: float, has_sft: bool, has_pref: bool) -> tuple[float, float]:
    """What the SFT and the preference loss are multiplied by: their weights as shares of 1.

    A channel without data gives its weight to the other one; without any data both are 0.

    Raises:
        LunaError: a weight is no number of at least 0, or both are 0.
    """
    total = w_sft + w_pref
    if not (w_sft >= 0 and w_pref >= 0 and 0 < total < float("inf")):
        raise LunaError(f"channel weights are {w_sft} and {w_pref}; both must be at least 0, and one above 0.")
    if has_sft and has_pref:
        return w_sft / total, w_pref / total
    return float(has_sft), float(has_pref)


def tokenise(tokenizer: Any, example: Example, lengths: LengthSettings = LengthSettings()) -> Row:
    """The example's prompt and answer as one row: the prompt as it is served, the answer cut to what is left."""
    prompt = fit(example.role, example.input, example.context, lengths.room, counter(tokenizer)).prompt
    return Row(*row_ids(tokenizer, prompt, example.output, lengths.max_tokens), example.weight)


def tokenise_pair(tokenizer: Any, pair: Preference, lengths: LengthSettings = LengthSettings()) -> tuple[Row, Row]:
    """The chosen and the rejected row of a pair, cut as in :func:`tokenise`; both begin with the same prompt."""
    prompt = fit(pair.role, pair.prompt, pair.context, lengths.room, counter(tokenizer)).prompt
    chosen, rejected = (
        Row(*row_ids(tokenizer, prompt, answer, lengths.max_tokens)) for answer in (pair.chosen, pair.rejected)
    )
    return chosen, rejected
