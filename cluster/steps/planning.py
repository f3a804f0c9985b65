"""The plan: which rows each role takes in which step, and which items it is asked, all fixed before training.

What is frozen is what is trained, row for row. New examples that the steps do not reach, and held-out ones beyond the
most that may be asked, stay new for the next generation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cluster.attempts import HopelessError
from cluster.request import RunSpec
from cluster.settings import Settings
from cluster.steps.data import learned_by, trained_by
from cluster.steps.preferences import prepare_channels, weighted_pairs_by_role
from cluster.steps.records import Collected, Parent, Planned, TrainingSet
from cluster.steps.replaying import AskParent, Earlier, Line, ReplayPool, as_replayed, asked_views, chosen, rehearsal
from curriculum.example import Example, unique
from curriculum.mix import rows_of_passes, shuffle_within_stages, spread, stratified
from curriculum.parent_view import freeze_views
from curriculum.parquet import NewData, freeze, read_new_data
from curriculum.replay import generations_to_read, replay_rows, shared_out
from curriculum.split import keys_of
from ledger.files import sha256_json
from ledger.home import Home
from ledger.logs import log_context
from ledger.roles import ROLES, Role
from ledger.store import Ledger
from trainers.evals.closed import closed_categories
from trainers.schedule import steps_for

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """What one role is trained on."""

    rows: tuple[Example, ...]
    """Those of every step, in order."""
    steps: int
    taken: tuple[Example, ...]
    """The different new examples among them."""
    replayed: Mapping[int, int]
    """Rows of each earlier generation."""
    rehearsed: int
    """Rows in which the base repeats itself."""

    @property
    def n_replay(self) -> int:
        return sum(self.replayed.values()) + self.rehearsed

    @property
    def n_delta(self) -> int:
        return len(self.rows) - self.n_replay


@dataclass(frozen=True)
class Plan:
    """What the roles are trained on and asked."""

    schedules: Mapping[Role, Schedule]
    asked: tuple[Example, ...]
    """The held-out items that generalization is measured on."""

    @property
    def rows(self) -> list[Example]:
        """The training file: role by role."""
        return [row for schedule in self.schedules.values() for row in schedule.rows]

    @property
    def delta(self) -> list[Example]:
        """The new examples that are trained on."""
        return sorted((e for own in self.schedules.values() for e in own.taken), key=lambda example: example.id)


def make_plan(
    spec: RunSpec, ledger: Ledger, collected: Collected, rehearsed: Sequence[Example], ask: AskParent
) -> Planned:
    """Fix and freeze the rows of every step and the items to ask; for a second channel its pairs and weights.

    Args:
        rehearsed: the base's own answers; those that belong to something held out are left out.
        ask: asks the parent about what may be replayed, where it has a say in that.
    """
    home, settings, parent = spec.home, spec.settings, collected.parent
    new = read_new_data(home.data_file(collected.collected_sha))
    channels = prepare_channels(home, spec.request, collected, new.train)
    line = line_for_replay(home, ledger, spec.lineage, settings, new, parent)
    pairs = pairs_of(home, channels.files.pref_sha)
    own_words = _not_held_out(rehearsed, new, ledger, spec) if settings.data.base_share else []
    earlier = Earlier(line, replay_seed(parent), own_words=own_words)
    weighed_new = weighed(new.train, channels.weights)
    pools = {role: replay_pool(role, settings, weighed_new, earlier, pairs.get(role, 0)) for role in ROLES}
    views = asked_views(pools, settings.data, ask)
    plan = plan_of(settings, new, channels.weights, replace(earlier, views=views), pairs)
    for role, own in plan.schedules.items():
        if not own.rows and not pairs.get(role):
            raise HopelessError(
                f"nothing is left to train {role} on: each of its new examples and pairs has a weight of 0. Bring "
                "others, or look at the reward model (`luna reward report`), which weighs them."
            )
    _log_plan(settings, new, plan)
    _warn_of_little(spec, ledger, plan, parent)
    return Planned(
        examples=_frozen(home, plan),
        channels=channels.files,
        view_sha=freeze_views(views, home) if views else "",
        rehearsed_sha=freeze(own_words, home) if own_words else "",
    )


def _not_held_out(rehearsed: Sequence[Example], new: NewData, ledger: Ledger, spec: RunSpec) -> list[Example]:
    """Those that share no key with anything on the other side of the split, now or earlier in the line."""
    keys = {example.id: keys_of(example) for example in rehearsed}
    earlier = ledger.sides_of({key for own in keys.values() for key in own}, spec.lineage)
    held_out = {key for key, sides in earlier.items() if "holdout" in sides}
    held_out |= {key for example in new.holdout for key in keys_of(example)}
    return [example for example in rehearsed if held_out.isdisjoint(keys[example.id])]


def pairs_of(home: Home, pref_sha: str) -> dict[Role, int]:
    """How many pairs each role has to learn from."""
    found = weighted_pairs_by_role(home.data_file(pref_sha)) if pref_sha else {}
    return {role: len(own) for role, own in found.items()}


def role_schedule(role: Role, settings: Settings, new: Iterable[Example], earlier: Earlier, pairs: int) -> Schedule:
    """The rows of one role's steps. Pure.

    Args:
        new: what may be trained on, all roles, weights above 0.
        pairs: preference pairs of this role; they alone fix the steps of a role without examples.
    """
    batch_size, steps = settings.train.batch_size_of(role), settings.train.steps_of(role)
    own = [example for example in new if example.role == role]
    if not own or _only_pairs_count(settings, pairs):
        taken = _new_rows(settings, pairs) if pairs else 0
        return Schedule((), steps or steps_for(taken, settings.channels.pairs_of(role)), (), {}, 0)
    pool = replay_pool(role, settings, own, earlier, pairs)
    drawn = chosen(pool, settings.data, earlier.views)
    recorded = (e for found in drawn.values() for e in found)
    rehearsed = rehearsal(pool)
    replayed = [*as_replayed(recorded, pool, settings.data, earlier.views), *rehearsed]
    replay = shuffle_within_stages(replayed, settings.seed)
    room = _room(settings, role)
    count = _new_rows(settings, len(own)) if room is None else room - len(replay)
    rows = rows_of_passes(own, count, settings.seed)
    mixed = spread(rows, replay)
    return Schedule(
        rows=tuple(mixed),
        steps=steps_for(len(mixed), batch_size),
        taken=tuple(unique(rows)),
        replayed={gen_id: len(found) for gen_id, found in drawn.items()},
        rehearsed=len(rehearsed),
    )


def replay_pool(role: Role, settings: Settings, new: Iterable[Example], earlier: Earlier, pairs: int) -> ReplayPool:
    """What one role may replay, and how much of it. Pure; see :func:`role_schedule`."""
    own = [example for example in new if example.role == role]
    known = {example.id for example in own}
    pools = {
        gen_id: [e for e in found if e.role == role and e.id not in known] for gen_id, found in earlier.line.items()
    }
    trains = own and not _only_pairs_count(settings, pairs)
    own_words = [e for e in earlier.own_words if e.role == role and e.id not in known]
    least = 0 if earlier.line else len(own_words)
    rows = replay_of(settings, len(own), _room(settings, role), least) if trains else 0
    count, rehearsed = shared_out(rows, _replayable(settings, pools), len(own_words), settings.data.base_share)
    closed = closed_categories(example for found in (own, *pools.values()) for example in found)
    return ReplayPool(pools, count, f"{earlier.seed}:{role}", closed, own_words, rehearsed)


def replay_of(settings: Settings, new: int, room: int | None, least: int = 0) -> int:
    """Rows that a role with so many new examples should replay; `least` beside the settings' own."""
    data = settings.data
    return replay_rows(_new_rows(settings, new), room, data.replay_share, max(data.replay_least, least))


def _replayable(settings: Settings, pools: Line) -> int:
    """How many of the line's examples may be replayed: recall is asked of others, and needs enough for the gates."""
    return max(0, len({e.id for found in pools.values() for e in found}) - settings.gates.min_items)


def _room(settings: Settings, role: Role) -> int | None:
    """Rows of all steps of a role where their number is set."""
    steps = settings.train.steps_of(role)
    return None if steps is None else steps * settings.train.batch_size_of(role)


def _new_rows(settings: Settings, new: int) -> int:
    """Rows of new examples, or of pairs alone, where the steps follow from the epochs; at least one."""
    return max(1, round(settings.train.epochs * new))


def _only_pairs_count(settings: Settings, pairs: int) -> bool:
    channels = settings.channels
    return channels.mode == "dual" and channels.w_sft == 0 and pairs > 0


def plan_of(
    settings: Settings, new: NewData, factors: Mapping[str, float], earlier: Earlier, pairs: Mapping[Role, int]
) -> Plan:
    """Everything that training and the exam need. Pure: equal arguments give an equal plan.

    `factors` multiply the weights of new examples, by id. What comes to 0 is left out before anything is drawn or
    shuffled, so that the rest is trained on as if it had never been there.
    """
    weighed_new = weighed(new.train, factors)
    schedules = {role: role_schedule(role, settings, weighed_new, earlier, pairs.get(role, 0)) for role in ROLES}
    asked = [
        item
        for role in ROLES
        for item in stratified(
            (e for e in new.holdout if e.role == role), settings.eval.items, f"generalization:{settings.seed}"
        )
    ]
    return Plan(schedules, tuple(sorted(asked, key=lambda example: example.id)))


def weighed(examples: Iterable[Example], factors: Mapping[str, float]) -> list[Example]:
    """The examples with their weights times their factors (by id, default 1), without those of weight 0."""
    found = [replace(e, weight=e.weight * factors[e.id]) if e.id in factors else e for e in examples]
    return [example for example in found if example.weight > 0]


def replay_seed(parent: Parent | None) -> str:
    """Seed of the draw from the line: the parent's adapters."""
    return sha256_json(parent.shas) if parent else ""


def line_for_replay(
    home: Home, ledger: Ledger, lineage: str, settings: Settings, new: NewData, parent: Parent | None
) -> dict[int, list[Example]]:
    """What the parent's line was trained on; of a line longer than the rows to draw, as many generations as rows."""
    if parent is None:
        return {}
    most = 0
    for role in ROLES:
        most = max(most, replay_of(settings, sum(e.role == role for e in new.train), _room(settings, role)))
    chosen = generations_to_read(ledger.parent_chain(parent.gen_id, lineage), most, replay_seed(parent))
    return {gen_id: trained_by(home, ledger.generation(gen_id, lineage)[0]) for gen_id in chosen}


def _frozen(home: Home, plan: Plan) -> TrainingSet:
    """Write the plan's files."""
    schedules = plan.schedules
    return TrainingSet(
        train_sha=freeze(plan.rows, home),
        delta_sha=freeze(plan.delta, home),
        holdout_sha=freeze(plan.asked, home),
        steps={role: own.steps for role, own in schedules.items()},
        n_delta={role: own.n_delta for role, own in schedules.items()},
        n_replay={role: own.n_replay for role, own in schedules.items()},
    )


def _warn_of_little(spec: RunSpec, ledger: Ledger, plan: Plan, parent: Parent | None) -> None:
    """Say where the next generation could not be asked about enough of what the line was trained on."""
    needed = spec.settings.gates.min_items
    if all(len(own.taken) >= needed for own in plan.schedules.values()):
        return
    # The whole line: replay may be drawn from a part of it.
    line = learned_by(spec.home, ledger, spec.lineage, parent.gen_id if parent else None)
    earlier = [example for own in line.values() for example in own]
    for role, own in plan.schedules.items():
        learned = {e.id for e in own.taken} | {e.id for e in earlier if e.role == role}
        if len(learned) < needed:
            logger.warning(
                "%s: the line will have been trained on %d examples, and recall of the next generation needs %d "
                "([gates] min_items); let more steps take more of them.",
                role,
                len(learned),
                needed,
            )


def _log_plan(settings: Settings, new: NewData, plan: Plan) -> None:
    """Say what each role takes, and how much it leaves."""
    asked = {example.id for example in plan.asked}
    for role, own in plan.schedules.items():
        again = f" ({len(own.taken)} examples)" if len(own.taken) < own.n_delta else ""
        of = [f"the base's own words {own.rehearsed}"] if own.rehearsed else []
        earlier = ", ".join([*(f"G{gen_id} {rows}" for gen_id, rows in own.replayed.items()), *of])
        left = sum(e.role == role for e in new.train) - len(own.taken)
        unasked = sum(e.role == role and e.id not in asked for e in new.holdout)
        asks = f"{own.steps} steps of {settings.train.batch_size_of(role)}"
        takes = f"{own.n_delta} new{again}, {own.n_replay} replayed{f' ({earlier})' if earlier else ''}"
        with log_context(role=role):
            logger.info("%s: %s; %d stay new, and %d held out", asks, takes, left, unasked)
