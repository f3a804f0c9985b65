"""Where the engine goes: cards of its own, or a share of one beside a trainer. Pure."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cluster.devices import Device
from cluster.plan.memory import Way, base_bytes
from cluster.plan.seating import Room
from cluster.plan.wanted import ServingShare, Wanted

SERVED_ROOM = 1 << 30
"""What a server needs beside the base: adapters, its cache of keys and values, its context. Not measured."""


@dataclass(frozen=True)
class Served:
    """Replicas of the engine on a card."""

    device: Device
    gpus: float
    """What each replica asks Ray for."""
    replicas: int
    bytes: int
    """Of all replicas there."""


def with_serving(
    wanted: Wanted, cards: Sequence[Device], serving: ServingShare | None
) -> Iterator[tuple[list[Room], tuple[Served, ...]]]:
    """What is left for trainers, for each way to place the engine."""
    if serving is None:
        yield [room_on(card) for card in cards], ()
        return
    for own in range(1, min(serving.replicas, len(cards) - 1) + 1):
        replicas = [len(range(at, serving.replicas, own)) for at in range(own)]
        for chosen in _different(cards, own):
            served = [
                _served(wanted, card, count, serving, card.share) for card, count in zip(chosen, replicas, strict=True)
            ]
            if all(served):
                rest = [room_on(card) for card in cards if card not in chosen]
                yield rest, tuple(one for one in served if one)
    for (card,) in _different(cards, 1):
        beside = _served(wanted, card, serving.replicas, serving, serving.share * serving.replicas)
        if beside and beside.gpus * serving.replicas < card.share:
            yield [room_on(other, beside if other == card else None) for other in cards], (beside,)


def _different(cards: Sequence[Device], count: int) -> Iterator[tuple[Device, ...]]:
    """Choices of so many cards. Of cards that are alike in all but their place only the first few are told apart, those
    of nodes with the fewest first, where several trainers are least likely to want them together."""
    on_node = Counter(card.node for card in cards)
    kinds: dict[Device, list[Device]] = {}
    for card in sorted(cards, key=lambda card: on_node[card.node]):
        kinds.setdefault(replace(card, node="", index=0), []).append(card)
    return itertools.combinations([card for own in kinds.values() for card in own[:count]], count)


def _served(wanted: Wanted, card: Device, replicas: int, serving: ServingShare, gpus: float) -> Served | None:
    """Replicas on a card: each takes its share of the whole card, which must be free, and hold the base."""
    each = int(serving.share * card.total_bytes)
    needs = base_bytes(replace(wanted, base_bits=16), Way.on(card, wanted).element) + SERVED_ROOM
    fits = each >= needs and each * replicas <= card.free_bytes and serving.share * replicas <= card.share
    return Served(card, round(gpus / replicas, 4), replicas, each * replicas) if fits else None


def room_on(card: Device, served: Served | None = None) -> Room:
    """What a trainer may take of a card, or of a CPU; a server beside it has its part already."""
    if not card.share:
        return Room(card, 0.0, card.free_bytes)
    lent = min(card.free_bytes, int(card.share * card.total_bytes))
    if served is None:
        return Room(card, min(1.0, card.share), lent)
    return Room(card, round(card.share - served.gpus * served.replicas, 4), max(0, lent - served.bytes))
