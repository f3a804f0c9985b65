"""Sets grow until their verdict is certain."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ledger.rules.certainty import is_certain
from trainers.evals.exam import half_of
from trainers.evals.growth import Sizes, ask_until_certain

SIZES = Sizes(block=100, most=400)


def asked_of(right, bound=0.85, sizes=SIZES):
    return ask_until_certain(right, list, bool, bound, sizes)


def test_a_clear_set_is_asked_one_block_and_an_unclear_one_all_that_may_be():
    assert len(asked_of([True] * 500)) == 100
    assert len(asked_of([False] * 500)) == 100
    assert len(asked_of([n % 20 > 2 for n in range(500)])) == 400, "0.85, the bound itself"
    assert len(asked_of([n % 20 > 2 for n in range(250)])) == 250
    assert asked_of([]) == []


def test_what_passes_is_asked_on_until_it_is_clear_otherwise_too():
    def asked(right):
        return ask_until_certain(right, list, bool, 0.85, SIZES, lambda found: len(found) >= 300)

    assert len(asked([True] * 500)) == 300
    assert len(asked([False] * 500)) == 100, "what fails anyway is clear enough"


def test_no_set_ends_with_fewer_items_than_its_gate_asks_for():
    assert len(ask_until_certain([True] * 500, list, bool, 0.85, Sizes(100, 400, 250))) == 300
    assert len(ask_until_certain([False] * 200, list, bool, 0.85, Sizes(100, 400, 250))) == 200


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 60), st.integers(1, 250), st.floats(0.05, 0.95))
def test_what_is_asked_is_a_prefix_and_stops_at_the_first_certain_block(right, block, items, bound):
    found = asked_of(right, bound, Sizes(block, items))
    assert found == right[: len(found)]
    assert len(found) <= min(items, len(right))
    if len(found) < min(items, len(right)):
        assert len(found) % block == 0
        assert is_certain(sum(found), len(found), bound)
    for n in range(block, len(found), block):
        assert not is_certain(sum(right[:n]), n, bound)


@given(st.sets(st.binary(min_size=32, max_size=32).map(bytes.hex)))
def test_every_item_is_in_one_half(ids):
    halves = {half: {item for item in ids if half_of(item) == half} for half in ("choose", "confirm")}
    assert halves["choose"] | halves["confirm"] == ids
    assert not halves["choose"] & halves["confirm"]
