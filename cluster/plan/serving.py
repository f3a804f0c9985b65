"""Where the engine goes: a card for each replica, one for all of them, or a share of one beside a trainer. Pure.

`with_serving` finds every way that the cards' memory allows, for the plan; `lend` says by the number of cards alone
what each replica asks Ray for, and what trainers may have. All replicas ask for the same, and wherever Ray puts them
trainers find what was left to them: a whole card is taken whole, and parts are taken of one card.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.devices import Device, RayNode
from cluster.placement import Placement
from cluster.plan.memory import Way, base_bytes
from cluster.plan.seating import Room
from cluster.plan.wanted import ServingShare, Wanted
from ledger.errors import LunaError

SERVED_ROOM = 1 << 30
"""What a server needs beside the base: adapters, its cache of keys and values, its context. Not measured."""


_LEAST = 1e-4
"""Of a GPU that Ray lends out."""


@dataclass(frozen=True)
class Served:
    """Replicas of the engine on a card."""

    device: Device
    gpus: float
    """What each replica asks Ray for."""
    replicas: int
    bytes: int
    """Of all replicas there."""


@dataclass(frozen=True)
class Lent:
    """What serving takes of the rig's cards."""

    each: float
    """What a replica asks Ray for: a whole card, a part of one, or 0 on CPUs."""
    left: float
    """Cards that trainers may have: whole ones, or the rest of the only one."""
    node: str = ""
    """Ray's id of the node whose card all replicas share; empty where Ray may choose."""

    @property
    def actor_options(self) -> dict[str, Any]:
        """What each replica is started with."""
        where = {"label_selector": {"ray.io/node-id": self.node}} if self.node else {}
        return {"num_gpus": self.each, **where}


def lend(nodes: Sequence[RayNode], groups: Sequence[Placement], serving: ServingShare) -> Lent:
    """What each replica asks for beside these groups of trainers, and what is left.

    A card for each replica where there are so many beside the groups; else one card for all replicas; else, if that
    leaves trainers one at least, a card for each, and the groups take turns. The only card is shared with a trainer, as
    is any where a group asks for a part of one.

    Args:
        nodes: as Ray counts their GPUs. Parts of cards count only where no node has a whole one.
        groups: of trainers, for all cards or as a plan with this server has them.

    Raises:
        LunaError: so many replicas leave trainers nothing; it says what fits.
    """
    cards = _cards(nodes)
    if not cards:
        return Lent(0.0, 0.0)
    each = _asked(list(cards.values()), groups, serving) if serving.gpus is None else serving.gpus
    several = serving.replicas > 1 and 0 < each < 1
    node = next(iter(cards))[0] if several and len({own for own, _ in cards}) > 1 else ""
    return Lent(each, round(sum(cards.values()) - each * serving.replicas, 4), node)


def _cards(nodes: Sequence[RayNode]) -> dict[tuple[str, int], float]:
    """What may be lent of each card, those of nodes with the fewest first, where trainers are least likely to want
    several at once."""
    ordered = sorted(nodes, key=lambda node: (node.gpus, node.node))
    whole = {(node.node, at): 1.0 for node in ordered for at in range(int(node.gpus))}
    parts = {(node.node, 0): node.gpus for node in ordered[-1:] if node.gpus > 0}
    return whole or parts


def _asked(cards: Sequence[float], groups: Sequence[Placement], serving: ServingShare) -> float:
    replicas, share, count = serving.replicas, serving.share, len(cards)
    if count == 1 or any(group.shares_its_card for group in groups):
        if replicas * share >= cards[0] - _LEAST:
            raise _too_much(cards, serving)
        return _part(share * replicas, replicas)
    if replicas <= count - sum(group.workers for group in groups):
        return 1.0
    if replicas * share <= 1.0:
        return _part(1.0, replicas)
    if replicas < count:
        return 1.0
    raise _too_much(cards, serving)


def _too_much(cards: Sequence[float], serving: ServingShare) -> LunaError:
    """The error for replicas that leave trainers nothing."""
    replicas, share, count = serving.replicas, serving.share, len(cards)
    among = "the one card" if count == 1 else f"{count} cards"
    fits = count - 1 if count > 1 else max(0, math.ceil((cards[0] - _LEAST) / share) - 1)
    most = _part(cards[0] if count == 1 else 1.0, replicas)
    options = [f"replicas = {fits}"] if fits else []
    options.append(f"gpu_memory_utilization {'below' if count == 1 else 'of at most'} {most:g}")
    return LunaError(
        f"[serving] replicas = {replicas} with gpu_memory_utilization = {share:g} would leave nothing of {among} to "
        f"train on. What fits: {' or '.join(options)}."
    )


def _part(card: float, replicas: int) -> float:
    """An equal part of a card, rounded down to what Ray tells apart."""
    return round(math.floor(card / replicas / _LEAST + 1e-6) * _LEAST, 4)


def with_serving(
    wanted: Wanted, cards: Sequence[Device], serving: ServingShare | None
) -> Iterator[tuple[list[Room], tuple[Served, ...]]]:
    """What is left for trainers, for each way to place the engine."""
    if serving is None:
        yield [room_on(card) for card in cards], ()
        return
    for own in sorted({1, serving.replicas}):
        for chosen in _different(cards, own) if own < len(cards) else ():
            served = [_served(wanted, card, serving.replicas // own, serving, card.share) for card in chosen]
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
    asked = _part(gpus, replicas)
    if serving.gpus is not None and abs(serving.gpus - asked) > _LEAST:
        return None  # it runs already, and holds something else
    each = int(serving.share * card.total_bytes)
    needs = base_bytes(replace(wanted, base_bits=16), Way.on(card, wanted).element) + SERVED_ROOM
    fits = each >= needs and each * replicas <= card.free_bytes and serving.share * replicas <= card.share
    return Served(card, asked, replicas, each * replicas) if fits else None


def room_on(card: Device, served: Served | None = None) -> Room:
    """What a trainer may take of a card, or of a CPU; a server beside it has its part already."""
    if not card.share:
        return Room(card, 0.0, card.free_bytes)
    lent = min(card.free_bytes, int(card.share * card.total_bytes))
    if served is None:
        return Room(card, min(1.0, card.share), lent)
    return Room(card, round(card.share - served.gpus * served.replicas, 4), max(0, lent - served.bytes))
