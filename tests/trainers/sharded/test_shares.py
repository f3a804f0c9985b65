"""What each worker takes of a step."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainers.sharded.engine import one_after_another
from trainers.sharded.shares import share_of_rank

BLANK = -1


@given(st.lists(st.integers(0, 9)), st.integers(1, 9), st.integers(1, 5))
def test_every_item_is_taken_once_and_every_worker_has_as_many_parts_of_the_same_size(items, size, parts):
    shares = [share_of_rank(items, rank, size, parts, lambda _: BLANK) for rank in range(size)]
    assert len({tuple(map(len, share)) for share in shares}) == 1
    assert sorted(item for share in shares for part in share for item in part if item != BLANK) == sorted(items)
    assert all(len(share) <= parts and all(share) for share in shares)
    blanks = sum(part.count(BLANK) for share in shares for part in share)
    assert blanks < size


def test_workers_of_learners_that_follow_one_another_are_counted_through():
    assert one_after_another([((0, 2),), ((0, 2), (3, 1)), ((0, 1),)], [8, 5, 6]) == ((0, 2), (11, 1))
