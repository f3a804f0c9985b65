"""Curriculum order, replay and the mix of a generation."""

from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.example import STAGES, make_example, unique
from curriculum.mix import curriculum_order, rows_of_passes, shuffle_within_stages, spread
from curriculum.replay import draw_replay, generations_to_read, replay_rows
from ledger.roles import ROLES


def make(number, role="logical", stage="fundamentals"):
    return make_example(
        role=role, stage=stage, category="x", kind="hybrid", input=f"question {number}", output=f"answer {number}"
    )


def many(n, role="logical", start=0):
    return [make(number, role, STAGES[number % 4]) for number in range(start, start + n)]


example_lists = st.lists(
    st.builds(make, st.integers(0, 60), st.sampled_from(ROLES), st.sampled_from(STAGES)), max_size=60
)


@given(example_lists)
def test_stages_come_in_order_and_keep_their_inner_order(examples):
    ordered = curriculum_order(examples)
    places = [STAGES.index(example.stage) for example in ordered]
    assert places == sorted(places)
    for stage in STAGES:
        assert [e for e in ordered if e.stage == stage] == [e for e in examples if e.stage == stage]


def test_a_shuffle_stays_within_stages_and_follows_the_seed():
    examples = many(80)
    shuffled = shuffle_within_stages(examples, 1)
    assert [example.stage for example in shuffled] == [example.stage for example in curriculum_order(examples)]
    assert shuffled == shuffle_within_stages(examples[::-1], 1)
    assert shuffled != shuffle_within_stages(examples, 2)
    assert sorted(shuffled, key=lambda e: e.id) == sorted(examples, key=lambda e: e.id)


def line_of(*sizes):
    """Generations with so many examples each, in four categories."""
    return {gen_id: many(size, start=1000 * gen_id) for gen_id, size in enumerate(sizes)}


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(0, 60))
@settings(deadline=None)
def test_replay_gives_every_generation_its_share_without_repeats(sizes, count):
    line = line_of(*sizes)
    drawn = draw_replay(line, count, "s")
    total, present = sum(sizes), sum(size > 0 for size in sizes)
    ids = [example.id for own in drawn.values() for example in own]
    assert len(ids) == len(set(ids)) == min(count, total)
    for gen_id, size in enumerate(sizes):
        got = len(drawn.get(gen_id, []))
        assert {e.id for e in drawn.get(gen_id, [])} <= {e.id for e in line[gen_id]}
        if count >= present and size:
            assert got >= 1
            assert abs(got - min(count, total) * size / total) <= present


def test_replay_keeps_the_share_of_each_category_and_stage():
    common, rare = many(160), [make(number, "logical", "manual") for number in range(500, 520)]
    drawn = draw_replay({0: [*common, *rare]}, 36, "s")[0]
    assert [sum(e.stage == stage for e in drawn) for stage in STAGES] == [8, 12, 8, 8]


def test_replay_follows_the_seed_and_not_the_order_of_the_examples():
    line = line_of(300, 100)
    backwards = {gen_id: own[::-1] for gen_id, own in reversed(line.items())}
    assert draw_replay(line, 100, "abc") == draw_replay(backwards, 100, "abc")
    assert draw_replay(line, 100, "abc") != draw_replay(line, 100, "abd")


def test_what_two_generations_were_trained_on_counts_once():
    assert {gen_id: len(own) for gen_id, own in draw_replay({3: many(9), 5: many(9)}, 20, "s").items()} == {3: 9}


def test_of_a_long_line_no_more_generations_are_read_than_rows_are_drawn():
    read = generations_to_read(range(1000), 40, "s")
    assert len(read) == len(set(read)) == 40
    assert generations_to_read(range(1000), 40, "s") == read != generations_to_read(range(1000), 40, "t")
    assert generations_to_read(range(12), 40, "s") == list(range(12))


@given(st.integers(0, 500), st.none() | st.integers(0, 500), st.floats(0, 0.5), st.integers(0, 200))
def test_replay_is_its_share_of_the_rows_and_never_more_than_half(new, room, share, least):
    rows = replay_rows(new, room, share, least)
    total = new + rows if room is None else room
    assert 0 <= rows <= total / 2
    if not share:
        assert rows == 0
    elif least <= rows < total // 2:
        assert rows == least or abs(rows - share * total) <= 1


@given(example_lists, st.integers(0, 200))
@settings(deadline=None)
def test_rows_are_whole_passes_and_a_part_of_one_with_every_categorys_share(examples, count):
    examples = unique(examples)
    rows = rows_of_passes(examples, count, 3)
    assert len(rows) == (count if examples else 0)
    assert rows == rows_of_passes(examples[::-1], count, 3)
    for start in range(0, len(rows), max(1, len(examples))):
        part = rows[start : start + len(examples)]
        assert part == curriculum_order(part)
        assert len({e.id for e in part}) == len(part)
        for stage in STAGES:
            there = sum(e.stage == stage for e in examples)
            assert abs(sum(e.stage == stage for e in part) - len(part) * there / len(examples)) < 1


def test_each_pass_is_shuffled_anew():
    rows = rows_of_passes(many(40), 80, 1)
    assert sorted(e.id for e in rows[:40]) == sorted(e.id for e in rows[40:])
    assert rows[:40] != rows[40:]
    assert rows[:40] == shuffle_within_stages(many(40), 1)


def test_replay_is_spread_evenly_through_what_is_new():
    replay, new = many(40), many(80, start=100)
    order = spread(new, replay)
    old = {example.id for example in replay}
    assert [e for e in order if e.id in old] == replay
    assert [e for e in order if e.id not in old] == new
    counts = [sum(example.id in old for example in half) for half in (order[:60], order[60:])]
    assert abs(counts[0] - counts[1]) <= 1
