"""Names mean one adapter at a time, and all three roles move together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import LunaError
from ledger.roles import ROLES
from serving.api.front import Leases
from serving.engine_app import Saved, table_to_restore
from serving.table import Table
from tests.ledger.builders import sha


def shas_of(gen):
    return {role: sha(f"{gen} {role}") for role in ROLES}


def make_table(*gens):
    table = Table()
    for gen in gens:
        table = table.add(gen, shas_of(gen)).switch(gen)
    return table


def meant(table):
    """Generation behind each role's current name."""
    return {table.resolve(f"luna-{role}").gen for role in ROLES}


moves = st.lists(st.tuples(st.sampled_from(["add", "switch", "remove"]), st.integers(0, 4)), max_size=30)


@given(moves)
def test_whatever_is_done_the_current_names_mean_one_generation_that_is_served(history):
    table = Table()
    for what, gen in history:
        before = table
        try:
            table = table.add(gen, shas_of(gen)) if what == "add" else getattr(table, what)(gen)
        except LunaError:
            assert table is before, "a refusal changes nothing"
        if table is not before:
            assert table.version == before.version + 1
        assert {table.current, table.previous} - {None} <= set(table.generations)
        if table.current is not None:
            assert meant(table) == {table.current}
        own = [adapter.name for adapter in table.names().values() if adapter and adapter.gen != table.current]
        assert len(own) == len(set(own))


def test_a_swap_can_be_taken_back():
    table = make_table(1, 2)
    assert (meant(table), table.previous) == ({2}, 1)
    back = table.switch(1)
    assert (meant(back), back.previous) == ({1}, 2)


def test_a_generation_keeps_its_number_and_the_base_its_name():
    table = make_table(1, 2)
    assert table.resolve("luna-logical-g1").sha == shas_of(1)["logical"]
    assert table.resolve(table.resolve("luna-logical").name).gen == 2
    assert table.resolve("base") is None
    with pytest.raises(LunaError, match="'luna-logical-g7'"):
        table.resolve("luna-logical-g7")


def test_what_users_may_be_sent_to_is_not_removed_and_numbers_are_not_used_again():
    table = make_table(1, 2, 3)
    for gen in (2, 3):
        with pytest.raises(LunaError, match=f"G{gen}"):
            table.remove(gen)
    assert 1 not in table.remove(1).generations
    with pytest.raises(LunaError, match="never used again"):
        table.add(3, shas_of(4))
    with pytest.raises(LunaError, match="all three"):
        table.add(5, {"logical": sha("x")})


def test_of_what_no_request_holds_the_longest_unused_makes_room():
    leases = Leases()
    for gen in (1, 2, 3, 1):
        with leases.on(gen):
            pass
    assert leases.least_recently_used([1, 2, 3]) == 2
    with leases.on(2):
        assert leases.held(2) == leases.total == 1
        assert leases.least_recently_used([1, 2, 3]) == 3
        assert leases.least_recently_used([2]) is None


def test_a_restart_serves_what_was_served_unless_the_head_moved_or_the_lineage_changed():
    served = make_table(1, 2, 3).switch(1)
    saved = Saved(lineage="main", head=3, table=served)
    assert table_to_restore(saved, "main", [3, 2, 1]) == served, "a deploy of an older generation holds"
    moved = table_to_restore(saved, "main", [4, 3, 2, 1])
    assert (moved.current, moved.previous, moved.generations) == (4, 3, {})
    other = table_to_restore(saved, "second", [3, 2, 1])
    assert (other.current, other.previous, other.generations) == (3, 2, {})
    assert other.version == served.version, "versions only grow"
    first = table_to_restore(None, "main", [0])
    assert (first.current, first.previous) == (0, None)
