"""What is taken and on which side it stands: recorded with the head's move, undone with it, kept where it must be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import taken as ledger_taken
from ledger.database import line
from ledger.errors import LunaError
from ledger.home import Home
from ledger.store import Ledger
from ledger.taken import Side, Taken
from ledger.verification.ledger import verify
from tests.ledger.builders import by_role, make_ledger, make_move, make_trio, sha


@pytest.fixture
def ledger(tmp_path: Path):
    with make_ledger(tmp_path) as opened:
        yield opened


def item(name: str, side: Side = "train", *keys: int) -> Taken:
    return Taken(sha(name), side, keys)


def judge(ledger: Ledger, gen_id: int, parent: int | None, *taken: Taken, verdict: str = "accepted") -> None:
    before = None if parent is None else by_role(ledger.generation(parent))
    move = make_move(ledger.head(), gen_id) if verdict == "accepted" else None
    ledger.record_judgement(make_trio(gen_id, before, verdict=verdict), [], move, taken=taken)


def taken(ledger: Ledger, *names: str) -> set[str]:
    found = ledger.taken_among([sha(name) for name in names])
    return {name for name in names if sha(name) in found}


def test_an_accepted_generation_takes_its_examples_and_their_sides(ledger):
    judge(ledger, 0, None, item("a", "train", 1, -2), item("b", "holdout", 3), Taken("", "holdout", (2**63 - 1,)))
    assert taken(ledger, "a", "b", "c") == {"a", "b"}
    assert ledger.sides_of([1, -2, 3, 4, 2**63 - 1]) == {
        1: {"train"}, -2: {"train"}, 3: {"holdout"}, 2**63 - 1: {"holdout"},
    }  # fmt: skip
    assert ledger.has_taken(0)


def test_a_rejected_generation_takes_nothing(ledger):
    judge(ledger, 0, None, item("a", "train", 1), verdict="rejected")
    assert taken(ledger, "a") == set()
    assert ledger.sides_of([1]) == {}
    assert not ledger.has_taken(0)


def test_what_a_rolled_back_generation_took_is_new_again_and_keeps_its_side(ledger):
    judge(ledger, 0, None, item("a", "train", 1))
    judge(ledger, 1, 0, item("b", "holdout", 2))
    ledger.move_head(make_move(1, 0, "rollback"))
    assert taken(ledger, "a", "b") == {"a"}
    assert ledger.sides_of([1, 2]) == {1: {"train"}, 2: {"holdout"}}
    judge(ledger, 2, 0, item("b", "holdout", 2))
    assert taken(ledger, "a", "b") == {"a", "b"}
    ledger.move_head(make_move(2, 1, "other"))
    assert taken(ledger, "a", "b") == {"a", "b"}, "G1 took it as well"


def test_a_key_may_stand_on_both_sides(ledger):
    judge(ledger, 0, None, item("a", "train", 1))
    judge(ledger, 1, 0, item("b", "holdout", 1))
    assert ledger.sides_of([1]) == {1: {"train", "holdout"}}


def test_lineages_take_apart(ledger):
    judge(ledger, 0, None, item("a", "train", 1))
    ledger.create_lineage("second", sha("base"))
    assert taken(ledger, "a") == set()
    assert ledger.sides_of([1]) == {}
    assert ledger.taken_among([sha("a")], "main") == {sha("a")}


def test_recording_a_judgement_again_takes_nothing_twice(ledger):
    for _ in range(2):
        ledger.record_judgement(make_trio(0), [], make_move(None, 0), taken=[item("a", "train", 1)])
    assert taken(ledger, "a") == {"a"}


def test_an_example_on_both_sides_is_refused_and_nothing_is_recorded(ledger):
    with pytest.raises(LunaError, match="must stand on one side"):
        judge(ledger, 0, None, item("a", "train"), item("a", "holdout"))
    assert ledger.head() is None
    assert not ledger.is_judged(0)


def test_what_an_older_generation_took_is_noted_once(ledger):
    judge(ledger, 0, None)
    judge(ledger, 1, 0, verdict="rejected")
    assert not ledger.has_taken(0)
    for _ in range(2):
        ledger.note_taken(0, [item("a", "train", 1)])
    assert ledger.has_taken(0)
    assert taken(ledger, "a") == {"a"}
    with pytest.raises(LunaError, match="other examples"):
        ledger.note_taken(0, [item("b")])
    for gen_id in (1, 2):
        with pytest.raises(LunaError, match=f"G{gen_id} .*never accepted"):
            ledger.note_taken(gen_id, [item("b")])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["accept", "reject", "move"]), st.integers(0, 20)), max_size=12))
def test_the_line_is_the_head_with_its_ancestors_whatever_moves(tmp_path_factory, story):
    with make_ledger(tmp_path_factory.mktemp("story")) as ledger:
        accepted: list[int] = []
        for kind, number in story:
            head = ledger.head()
            if kind == "move" and accepted:
                to_gen = accepted[number % len(accepted)]
                ledger.move_head(make_move(head, to_gen, "rollback"))
                assert ledger.head() == to_gen
            elif kind != "move":
                gen_id = ledger.next_gen_id()
                verdict = "accepted" if kind == "accept" else "rejected"
                judge(ledger, gen_id, head, item(f"G{gen_id}"), verdict=verdict)
                accepted += [gen_id] if verdict == "accepted" else []
        head = ledger.head()
        chain = [] if head is None else ledger.parent_chain(head)
        with ledger.db.reading() as connection:
            found = [gen_id for (gen_id,) in connection.execute("SELECT gen_id FROM line ORDER BY gen_id DESC")]
            assert [line.is_in_line(connection, 1, gen_id) for gen_id in chain] == [True] * len(chain)
        assert found == chain
        assert ledger.age() == (len(chain) - 1 if chain else None)
        names = [f"G{number}" for number in range(ledger.next_gen_id())]
        assert taken(ledger, *names) == {f"G{number}" for number in chain}


def test_keys_are_found_and_counted_before_and_after_they_move_to_the_large_table(ledger, monkeypatch):
    monkeypatch.setattr(ledger_taken, "MOST_WAITING", 3)
    for gen_id in range(6):
        judge(ledger, gen_id, gen_id - 1 if gen_id else None, item(f"n{gen_id}", "train", gen_id, gen_id + 1, -gen_id))
        assert len(taken(ledger, *(f"n{number}" for number in range(10)))) == gen_id + 1
        assert set(ledger.sides_of(range(-10, 10))) == set(range(-gen_id, gen_id + 2))
    with ledger.db.reading() as connection:
        counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES]
    assert sum(counts) == 17, "0 is -0: G0 has one key less"
    assert min(counts) > 0
    assert [problem.what for problem in verify(ledger.db.home) if "differ" in problem.what] == []


TABLES = ("sides", "latest_sides")


def test_many_ids_and_keys_are_asked_in_one_go(ledger):
    many = [item(f"n{number}", "train", number) for number in range(6_000)]
    judge(ledger, 0, None, *many)
    with Ledger.open(Home(ledger.db.home.root)) as reader:
        assert len(reader.taken_among([one.example_id for one in many])) == 6_000
        assert len(reader.sides_of(range(12_000))) == 6_000
