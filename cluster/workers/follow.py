"""Who is told how the training of a trio goes, and what its groups' progress comes to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.placement import Placement
from trainers.job import MicroBatches, TrioOutcome, TrioProgress


@dataclass(frozen=True)
class Follower:
    """Who is told how a training goes: its progress, each group that has finished, what was raised for memory."""

    on_progress: Callable[[TrioProgress], None]
    on_outcome: Callable[[Placement, TrioOutcome], None] = lambda *_: None
    on_micro_batches: Callable[[Placement, MicroBatches], None] = lambda *_: None


def merge_progress(parts: Sequence[TrioProgress]) -> TrioProgress:
    """The trio's progress from that of its devices: the slowest decides."""
    tokens = [part.tokens_per_s for part in parts]
    return TrioProgress(
        step=min(part.step for part in parts),
        steps=max(part.steps for part in parts),
        losses={role: loss for part in parts for role, loss in part.losses.items()},
        examples_per_s=sum(part.examples_per_s for part in parts),
        tokens_per_s=None if any(one is None for one in tokens) else sum(one for one in tokens if one is not None),
        seconds_left=max(part.seconds_left for part in parts),
        role_steps={role: step for part in parts for role, step in part.role_steps.items()},
        role_totals={role: total for part in parts for role, total in part.role_totals.items()},
        channels={
            channel: {role: loss for part in parts for role, loss in part.channels.get(channel, {}).items()}
            for channel in dict.fromkeys(channel for part in parts for channel in part.channels)
        },
    )
