"""What people say is learned by the next generation: real runs of a tiny model here, from talk to verdict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.request import GenerationRequest, PinnedBase, RunSpec
from cluster.settings import load_settings
from cluster.steps.data import collect
from cluster.steps.lessons import new_lessons
from curriculum.example import Example
from curriculum.parquet import NewData, read_examples, read_new_data, write_examples
from ledger.clock import utc_now
from ledger.errors import LunaError
from ledger.home import Home
from ledger.records import GenerationRow, HeadMove
from ledger.roles import ROLES
from ledger.store import Stores
from ledger.verification.ledger import verify
from tests.cluster.builders import even_numbers
from tests.cluster.test_generations import LENIENT
from tests.cluster.test_lessons import correct, like, say, score
from tests.cluster.test_walk import OneProcess, nothing_is_served, pool, steps, walk, watcher  # noqa: F401
from trainers.models.frozen import Base, prepare_base

pytestmark = pytest.mark.slow

REPLAY = "replay_share = 0.1\nreplay_least = 10\n"
WHOLE = (
    LENIENT.replace("steps = 12\n", "steps = 40\n")
    .replace("fill = false\n", REPLAY)
    .replace("min_items = 10\n", "min_items = 40\n")
)
"""Steps enough for every new example; items enough that 20 of them have one kind of answer."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home").create()
    made.settings_file.write_text(WHOLE)
    return made


@pytest.fixture
def base(home: Home) -> Base:
    return prepare_base(load_settings(home.settings_file).base, home)


@pytest.fixture
def stores(home: Home, base: Base) -> Iterator[Stores]:
    with Stores.create(home) as opened:
        opened.ledger.create_lineage("main", base.sha)
        yield opened


class Raised:
    """Raises generations of one home, as `luna generation run` and `luna age-up` ask for them."""

    def __init__(self, home: Home, stores: Stores, base: Base, pool: Any, watcher: Any) -> None:  # noqa: F811
        self.home, self.stores, self.base, self.pool, self.watcher = home, stores, base, pool, watcher
        self.lines: list[str] = []

    def request(self, *files: str, **data: bool) -> GenerationRequest:
        settings = load_settings(self.home.settings_file, {"data": data})
        pinned = PinnedBase(source=self.base.source, sha=self.base.sha)
        return GenerationRequest(settings=settings, base=pinned, data=files)

    def begin(self, *files: str, **data: bool) -> RunSpec:
        request = self.request(*files, **data)
        gen_id = self.stores.ledger.next_gen_id("main")
        run = self.stores.journal.create_run(f"run-{gen_id}", "main", gen_id, request.model_dump(mode="json"))
        return RunSpec.of(self.home, run)

    def end(self, spec: RunSpec) -> GenerationRow:
        verdict = walk(spec, self.stores, self.pool, self.watcher, self.lines)
        assert verdict.verdict == "accepted", verdict.reason
        return self.stores.ledger.generation(spec.gen_id)[0]

    def collected(self, *files: str, **data: bool) -> NewData:
        found = collect(self.home, self.stores, "main", self.request(*files, **data))
        return read_new_data(self.home.data_file(found.collected_sha))

    def raised(self, *files: str, **data: bool) -> GenerationRow:
        return self.end(self.begin(*files, **data))

    def trained_on(self, row: GenerationRow) -> list[Example]:
        return read_examples(self.home.data_file(row.train_sha))

    def taken(self, row: GenerationRow) -> set[str]:
        shas = (row.data_delta_sha, row.holdout_sha)
        return {e.output for sha in shas for e in read_examples(self.home.data_file(sha))}

    def new(self) -> set[str]:
        return {lesson.output for lesson in new_lessons(self.stores, "main")}


@pytest.fixture
def raising(home: Home, stores: Stores, base: Base, pool: Any, watcher: Any) -> Raised:  # noqa: F811
    return Raised(home, stores, base, pool, watcher)


def inbox(home: Home, first: int) -> str:
    return write_examples(home.inbox_dir, even_numbers(first, 150))


def test_what_is_said_and_corrected_at_any_time_is_learned_by_the_next_generation(raising, home, stores):
    for number in range(1, 9):
        say(stores, number, "2025-12-01T00:00:00Z")
    like(stores, 11)
    say(stores, 12, finish_reason="aborted", answer="Half an")
    score(stores, 11, 1.0)
    spec = raising.begin(inbox(home, 0))  # `luna generation run`: the inbox, and what conversations teach

    class WhileItTrains(OneProcess):
        """Somebody talks in the middle of the training."""

        def __init__(self) -> None:
            self.actor, self.opened, self.settings = raising.pool.actor, raising.pool.opened, None

        def train(self, jobs: Any, on_progress: Any, stop: Any) -> Any:
            like(stores, 21)
            score(stores, 21, 1.0)
            return super().train(jobs, on_progress, stop)

    talked, raising.pool = raising.pool, WhileItTrains()
    first = raising.end(spec)
    raising.pool = talked
    assert "answer 11" in raising.taken(first)
    assert raising.new() == {"answer 21"}
    earned = stores.conversations.turns(f"{2:032x}")[0].karma
    assert stores.conversations.karma_earned("main") == earned > 0, "what was earned since it began stays"

    correct(stores, 3, "What I should have said a month ago.")
    correct(stores, 12, "Half an hour.")
    pending = {"answer 21", "What I should have said a month ago.", "Half an hour."}
    assert raising.new() == pending

    unrelated = raising.raised(inbox(home, 200), conversations=False)
    assert not pending & raising.taken(unrelated)
    assert raising.new() == pending

    last = raising.raised(inbox(home, 400))
    assert pending <= raising.taken(last)
    assert raising.new() == set()
    assert {e.output for e in raising.trained_on(last)} >= {
        e.output for e in read_examples(home.data_file(last.data_delta_sha))
    }
    assert verify(home) == []

    stores.ledger.move_head(HeadMove(from_gen=2, to_gen=1, reason="rollback", at=utc_now()))
    assert raising.new() == pending, "what was undone is to be learned again"
    assert pending <= {example.output for example in raising.collected(inbox(home, 400)).train}


def test_conversations_alone_are_filled_up_from_the_recipes_and_a_blank_message_stops_nothing(raising, stores, caplog):
    """As `luna age-up` asks: no file of the inbox."""
    caplog.set_level("INFO", "cluster")
    for number, message in enumerate(["What is a kettle?", " \n", "What is a cup?"]):
        like(stores, number, message=message, role=ROLES[number])
    correct(stores, 2, "Better.")
    new = raising.collected()
    assert new == raising.collected(), "the coordinator's check and the run collect the same"
    own = [e for e in (*new.train, *new.holdout) if e.id not in new.filling]
    assert {e.output for e in own} == {"answer 0", "Better."}
    assert {e.group for e in own} == {f"conversation/{0:032x}"}
    assert all(sum(e.role == role for e in new.holdout) >= 10 for role in ROLES)
    assert any("2 new lessons of conversations" in line for line in caplog.messages)
    assert any("creative: 1 of your own" in line and "from the recipe" in line for line in caplog.messages)


def test_with_nothing_in_the_inbox_and_nothing_said_it_says_what_to_do(raising):
    with pytest.raises(LunaError, match=r"luna curriculum build"):
        raising.collected()
