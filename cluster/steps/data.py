"""The data of a generation: what is new, split and frozen; and what the line has taken already."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from cluster.request import GenerationRequest
from cluster.settings import Settings
from cluster.steps.filling import everyday_filling, filling
from cluster.steps.lessons import new_lessons
from cluster.steps.records import Collected, Parent
from cluster.steps.splitting import split_new
from curriculum.example import Example, unique
from curriculum.parquet import NewData, freeze_new_data, read_examples, read_new_data
from curriculum.preferences.pairs import freeze_preferences, read_preference_set
from curriculum.split import Split, keys_of, keys_of_pair
from ledger.errors import LunaError
from ledger.home import Home
from ledger.records import GenerationRow
from ledger.roles import ROLES, Role
from ledger.rules.stop_rule import stopped_refusal
from ledger.store import Ledger, Stores
from ledger.taken import Side, Taken

logger = logging.getLogger(__name__)


def collect(home: Home, stores: Stores, lineage: str, request: GenerationRequest) -> Collected:
    """Pin the parent; split what the line has not taken yet, and freeze both sides.

    Raises:
        LunaError: nothing is new, a role has no data, a holdout is too small, or the lineage was stopped on this data.
    """
    ledger = stores.ledger
    note_what_was_taken(home, ledger, lineage)
    own, repeated = new_examples(home, stores, lineage, request)
    pairs = read_preference_set(home.data_file(request.preferences)) if request.preferences else []

    def split_of(examples: Sequence[Example]) -> Split:
        return split_new(ledger, lineage, examples, pairs, request.settings.data.holdout_percent)

    split, filled = split_of(own), list[Example]()
    # Held-out examples that earlier generations did not ask are new as well, and alone no reason for another.
    something = split.train or any(example.stage == "conversations" for example in own)
    if something and request.settings.data.fill:
        if is_too_little(split, request.settings):
            filled = filling(ledger, lineage, request.settings, own, lambda examples: split_of(examples).holdout)
        filled += everyday_filling(ledger, lineage, request.settings, [*own, *filled])
        split = split_of([*own, *filled])
    new = NewData(split.train, split.holdout, frozenset(example.id for example in filled))
    _check_sizes(new, {pair.role for pair in split.train_pairs if pair.weight > 0}, repeated, request)
    if refusal := stopped_refusal(ledger.stop_of(lineage), new.brought_sha):
        raise LunaError(refusal)
    return Collected(
        parent=pinned_parent(ledger, lineage),
        collected_sha=freeze_new_data(new, home),
        n_new=len(split.train),
        n_held_out=len(split.holdout),
        joined=split.joined,
        torn=split.torn,
        pairs_sha=freeze_preferences(split.train_pairs, home) if split.train_pairs else "",
        held_out_pairs_sha=freeze_preferences(split.holdout_pairs, home) if split.holdout_pairs else "",
    )


def new_examples(home: Home, stores: Stores, lineage: str, request: GenerationRequest) -> tuple[list[Example], int]:
    """What the inbox and conversations have that the line has not taken, and how many examples it has.

    Raises:
        LunaError: there is nothing at all.
    """
    examples = [e for sha in request.data for e in read_examples(home.inbox_dir / f"{sha}.parquet")]
    if request.settings.data.conversations and (lessons := new_lessons(stores, lineage)):
        logger.info("%d new lessons of conversations", len(lessons))
        examples += lessons
    if not examples:
        raise LunaError(
            "there is no data for a generation: the inbox is empty, and no conversation teaches anything new. Build "
            "some with `luna curriculum build`, or bring your own with `luna curriculum import FILE`."
        )
    # Of equal ones not the first: a correction is learned whatever weight a file gives to the same words, and what has
    # a group keeps it, so that the rest of its conversation or document stays on its side.
    examples = unique(sorted(examples, key=lambda e: (not e.weight, not e.group, -e.weight, e.group)))
    known = stores.ledger.taken_among([example.id for example in examples], lineage)
    return [example for example in examples if example.id not in known], len(known)


def is_too_little(split: Split, settings: Settings) -> bool:
    """Whether a role has too few items for the gates, or nothing to train on."""
    trains, holds = (Counter(e.role for e in side) for side in (split.train, split.holdout))
    return any(not trains[role] or holds[role] < settings.gates.min_items for role in ROLES)


def pinned_parent(ledger: Ledger, lineage: str) -> Parent | None:
    """The head as it stands; None before the first accepted generation."""
    head = ledger.head(lineage)
    if head is None:
        return None
    rows = ledger.generation(head, lineage)
    return Parent(gen_id=head, shas={row.role: row.child_sha for row in rows})


def brought_shas(home: Home, generations: Iterable[GenerationRow]) -> tuple[str, ...]:
    """Names of what each of these generations found new, and of all of it together: what a stopped lineage refuses."""
    found = [_brought(home, row) for row in generations]
    together = NewData(unique(e for own in found for e in (*own.train, *own.holdout)), [], _fillings(found))
    return tuple(sorted({own.brought_sha for own in (*found, together)}))


def _fillings(found: Sequence[NewData]) -> frozenset[str]:
    """What was nobody's own data in any of them."""
    own = {e.id for data in found for e in (*data.train, *data.holdout) if e.id not in data.filling}
    return frozenset(name for data in found for name in data.filling) - own


def _brought(home: Home, row: GenerationRow) -> NewData:
    if row.collected_sha:
        return read_new_data(home.data_file(row.collected_sha))
    holdout = read_examples(home.data_file(row.holdout_sha)) if row.holdout_sha else []
    return NewData(read_examples(home.data_file(row.data_delta_sha)), holdout)


def note_what_was_taken(home: Home, ledger: Ledger, lineage: str) -> None:
    """Let the ledger know what the line's generations took that were judged before it kept that; each is read once.

    Oldest first, so that a known one has known ancestors, wherever an earlier attempt was cut off.
    """
    unknown: list[GenerationRow] = []
    gen_id = ledger.head(lineage)
    while gen_id is not None and not ledger.has_taken(gen_id, lineage):
        unknown.append(ledger.generation(gen_id, lineage)[0])
        gen_id = unknown[-1].parent_gen
    for row in reversed(unknown):
        ledger.note_taken(row.gen_id, taken_by(home, row), lineage)


def taken_by(home: Home, row: GenerationRow) -> list[Taken]:
    """What a generation took, from its frozen files: the delta, the holdout, and the sides of its pairs."""
    examples: dict[Side, str] = {"train": row.data_delta_sha, "holdout": row.holdout_sha}
    pairs: dict[Side, str] = {"train": row.pref_sha, "holdout": row.pref_holdout_sha}
    return [
        *(
            Taken(example.id, side, keys_of(example))
            for side, sha in examples.items()
            for example in (read_examples(home.data_file(sha)) if sha else ())
        ),
        *(
            Taken("", side, keys_of_pair(pair))
            for side, sha in pairs.items()
            for pair in (read_preference_set(home.data_file(sha)) if sha else ())
        ),
    ]


def line_of(ledger: Ledger, lineage: str, head: int) -> list[GenerationRow]:
    """One row of the head and of each of its ancestors; what they share over the roles is what counts here."""
    return [ledger.generation(gen_id, lineage)[0] for gen_id in ledger.parent_chain(head, lineage)]


def _check_sizes(new: NewData, with_pairs: Collection[Role], repeated: int, request: GenerationRequest) -> None:
    percent, needed = request.settings.data.holdout_percent, request.settings.gates.min_items
    trains, holds = Counter(e.role for e in new.train), Counter(e.role for e in new.holdout)
    for role in ROLES:
        if not trains[role] + holds[role] or not (trains[role] or role in with_pairs):
            held = f", {holds[role]} are held out" if holds[role] else ""
            raise LunaError(
                f"there are no new examples for {role} to train on ({repeated} examples were seen before and left "
                f"out{held}). Every role needs data: add some with `luna curriculum build` or `luna curriculum import`."
            )
        if holds[role] < needed:
            raise LunaError(
                f"the holdout of {role} would have {holds[role]} examples ({percent} % of {trains[role] + holds[role]} "
                f"new ones), and the gates need at least {needed}. Bring about {needed * 100 // percent} examples for "
                f"{role}, or lower [gates] min_items in luna.toml and know that the score means less."
            )


def trained_by(home: Home, row: GenerationRow) -> list[Example]:
    """What a generation was trained on as new data, all roles."""
    new = read_examples(home.data_file(row.data_delta_sha))
    if row.collected_sha or not row.rewards_sha:
        return new
    # Recorded when a delta still held what the reward model kept from training.
    delta = {example.id for example in new}
    return unique(e for e in read_examples(home.data_file(row.train_sha)) if e.id in delta)


def learned_by(home: Home, ledger: Ledger, lineage: str, head: int | None) -> dict[int, list[Example]]:
    """What each generation of the head's line was the first to be trained on, oldest first; empty without a head."""
    learned: dict[int, list[Example]] = {}
    known: set[str] = set()
    for row in reversed([] if head is None else line_of(ledger, lineage, head)):
        learned[row.gen_id] = [e for e in unique(trained_by(home, row)) if e.id not in known]
        known |= {example.id for example in learned[row.gen_id]}
    return learned
