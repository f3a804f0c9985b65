"""One split for all that is trained and measured: what belongs together is on one side, in every generation.

Examples and preference pairs share keys: the conversation or document they come from, their question in one spelling,
and what makes them near copies (`near_copies`). Items that share a key, directly or through others, are a cluster. The
role is no part of it: one question asked of three roles is one question.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain

from curriculum.example import Example
from curriculum.near_copies import FEW, WORDS, near_copy_keys, near_pairs, shingles_of, text_key, words_of
from curriculum.preferences.pairs import Preference
from ledger.errors import LunaError
from ledger.roles import ROLES
from ledger.taken import Side

HOLDOUT_PERCENT = 20
"""Share of new clusters, in percent, that is kept from training and used to measure generalization."""

_MOST_CHARACTERS = 2_000
"""Of what was said in a conversation, its end, that tells one question from another."""

Known = Mapping[int, AbstractSet[Side]]
"""Where keys stand since earlier generations, as `Ledger.sides_of` has it."""


@dataclass(frozen=True)
class Split:
    """Each item on its side, in the order given."""

    train: list[Example]
    holdout: list[Example]
    train_pairs: list[Preference]
    holdout_pairs: list[Preference]
    joined: int
    """Items that stand with another group or question, being near copies of its items."""
    torn: int
    """Items left out, since earlier generations have what belongs to them on both sides."""
    keys: Mapping[str, tuple[int, ...]] = field(repr=False)
    """Of each item that is on a side, by id."""


def keys_of(example: Example) -> tuple[int, ...]:
    """The keys of an example: two that share one are on one side."""
    question = _question(example)
    return _firm_keys(example.group, question) + _alike_keys(question, (example.output,))


def keys_of_pair(pair: Preference) -> tuple[int, ...]:
    """The keys of a pair, those of an example with its prompt and either answer."""
    question = _question(pair)
    return _firm_keys(pair.group, question) + _alike_keys(question, (pair.chosen, pair.rejected))


def _question(item: Example | Preference) -> str:
    """What an item asks. In a conversation that has begun, with what was said before: "And why?" is another question in
    each, and would else put all conversations into one cluster."""
    question = item.input if isinstance(item, Example) else item.prompt
    if item.context and item.group.startswith("conversation/"):
        return f"{item.context}\n{question}"[-_MOST_CHARACTERS:]
    return question


def _firm_keys(group: str, question: str) -> tuple[int, ...]:
    same_question = text_key("question", " ".join(words_of(question)))
    return (text_key("group", group), same_question) if group else (same_question,)


@lru_cache(maxsize=1 << 15)  # one generation asks for the keys of its texts several times
def _alike_keys(question: str, answers: tuple[str, ...]) -> tuple[int, ...]:
    asked = words_of(question)
    keys = near_copy_keys(asked) if len(asked) >= WORDS else ()  # of a shorter one the question's own key says all
    for answer in answers:
        keys += near_copy_keys(asked + words_of(answer))
    return tuple(dict.fromkeys(keys))


def split_by_group(
    examples: Sequence[Example], pairs: Sequence[Preference], percent: int, known: Known | None = None
) -> Split:
    """Put each cluster of examples and pairs on one side; a pure function that no order of the items changes.

    A cluster with a key that earlier generations have on one side goes there. Of one that they have on both, each item
    follows its own keys, and what would then stand with the other side is left out. A new cluster is held out by a hash
    of its smallest key, unless it is more than half of what `percent` of the items would be: a single long
    conversation or document is trained on, and the holdout keeps its share.
    """
    _check(percent)
    known = known or {}
    items: list[Example | Preference] = [*examples, *pairs]
    keys = [keys_of(item) if isinstance(item, Example) else keys_of_pair(item) for item in items]
    roots = _roots(keys, _near_pairs(items))
    clusters: dict[int, list[int]] = defaultdict(list)
    for number, root in enumerate(roots):
        clusters[root].append(number)
    largest_held_out = max(len(items) * percent / 200, len(ROLES))
    sides: list[Side | None] = [None] * len(items)
    for members in clusters.values():
        earlier = [_known_sides(keys[number], known) for number in members]
        everywhere = frozenset[Side]().union(*earlier)
        if len(everywhere) == 2:
            for number, side in zip(members, _torn([keys[n] for n in members], earlier), strict=True):
                sides[number] = side
            continue
        new: Side = "train"
        if not everywhere and len(members) <= largest_held_out:
            new = _side(min(key for number in members for key in keys[number]), percent)
        for number in members:
            sides[number] = next(iter(everywhere), new)
    firm = _roots([_firm_keys(item.group, _question(item)) for item in items])
    largest = sum(max(Counter(firm[number] for number in members).values()) for members in clusters.values())
    on_side = {side: [n for n, of in enumerate(sides) if of == side] for side in ("train", "holdout")}
    return Split(
        train=[examples[n] for n in on_side["train"] if n < len(examples)],
        holdout=[examples[n] for n in on_side["holdout"] if n < len(examples)],
        train_pairs=[pairs[n - len(examples)] for n in on_side["train"] if n >= len(examples)],
        holdout_pairs=[pairs[n - len(examples)] for n in on_side["holdout"] if n >= len(examples)],
        joined=len(items) - largest,
        torn=sides.count(None),
        keys={item.id: keys[n] for n, item in enumerate(items) if sides[n] is not None},
    )


def held_out(items: Iterable[Example], percent: int, known: Known | None = None) -> list[Example]:
    """Those of the items that may be asked: on the holdout's side, and with no key that was trained on."""
    _check(percent)
    found = []
    for item in items:
        keys = keys_of(item)
        earlier = _known_sides(keys, known or {})
        if earlier == {"holdout"} or (not earlier and _side(min(keys), percent) == "holdout"):
            found.append(item)
    return found


def _check(percent: int) -> None:
    if not 0 <= percent <= 100:
        raise LunaError(f"holdout percent is {percent}; it must be between 0 and 100.")


def _side(key: int, percent: int) -> Side:
    """Hashed once more: the smallest of many keys is no longer evenly spread."""
    digest = hashlib.blake2b(key.to_bytes(8, "big", signed=True), digest_size=8, person=b"side").digest()
    return "holdout" if int.from_bytes(digest, "big") % 100 < percent else "train"


def _known_sides(keys: Iterable[int], known: Known) -> frozenset[Side]:
    return frozenset(side for key in keys for side in known.get(key, ()))


def _torn(keys: Sequence[tuple[int, ...]], earlier: Sequence[frozenset[Side]]) -> list[Side | None]:
    """The sides in a cluster that reaches both: trained on if nothing of it was held out, held out if it shares
    nothing with that, or left out."""
    trained = {key for own, sides in zip(keys, earlier, strict=True) if "holdout" not in sides for key in own}
    found: list[Side | None] = []
    for own, sides in zip(keys, earlier, strict=True):
        if "holdout" not in sides:
            found.append("train")
        else:
            found.append("holdout" if "train" not in sides and trained.isdisjoint(own) else None)
    return found


def _near_pairs(items: Sequence[Example | Preference]) -> Iterator[tuple[int, int]]:
    owners: list[int] = []
    texts: list[list[str]] = []
    for number, item in enumerate(items):
        answers = [item.output] if isinstance(item, Example) else [item.chosen, item.rejected]
        asked = words_of(_question(item))
        for words in (asked, *(asked + words_of(answer) for answer in answers)):
            if len(words) > FEW:
                owners.append(number)
                texts.append(shingles_of(words))
    return ((owners[one], owners[other]) for one, other in near_pairs(texts))


def _roots(keys: Sequence[Iterable[int]], pairs: Iterable[tuple[int, int]] = ()) -> list[int]:
    """For each item the first item of its cluster: of those that share a key or are a pair."""
    parent = list(range(len(keys)))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    first: dict[int, int] = {}
    alike = ((item, first.setdefault(key, item)) for item, own in enumerate(keys) for key in own)
    for item, other in chain(alike, pairs):
        low, high = sorted((root(item), root(other)))
        parent[high] = low
    return [root(item) for item in range(len(keys))]
