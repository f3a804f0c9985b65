"""What a training job reads: examples and preference pairs by role, without those of weight 0.

They are taken out here, before any batch is formed, so that not even the order of what is left depends on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from curriculum.example import Example
from curriculum.parquet import read_examples
from curriculum.preferences.pairs import Preference, read_preference_set
from ledger.errors import LunaError
from ledger.roles import Role
from trainers.fused.losses import channel_shares
from trainers.job import TrioJob


@dataclass(frozen=True)
class RoleData:
    """By role and in file order, everything of a weight above 0."""

    examples: Mapping[Role, list[Example]]
    pairs: Mapping[Role, list[Preference]]
    shares: Mapping[Role, tuple[float, float]]
    """What a role's SFT and DPO loss are multiplied by (`trainers.fused.losses.channel_shares`)."""


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
    if empty := [role for role in job.roles if not own_examples[role] and not own_pairs[role]]:
        raise LunaError(
            f"{job.train_file} has no examples with a weight above 0 for {', '.join(empty)}"
            f"{', and there are no preference pairs' if dual else ''}; every role needs data to train on."
        )
    shares = {
        role: channel_shares(
            channels.w_sft if dual else 1.0,
            channels.w_pref if dual else 0.0,
            bool(own_examples[role]),
            bool(own_pairs[role]),
        )
        for role in job.roles
    }
    return RoleData(
        examples={role: own if shares[role][0] else [] for role, own in own_examples.items()},
        pairs={role: own if shares[role][1] else [] for role, own in own_pairs.items()},
        shares=shares,
    )
