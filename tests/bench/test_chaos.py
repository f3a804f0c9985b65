"""Runs that meet faults go on or say why: a tenth of `make chaos`, and how its faults are drawn."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.chaos_faults import KINDS, Outcome, counts, draw, known_outcomes, note_outcome, rows_of
from bench.chaos_home import unspoken
from ledger.journal import STEPS
from tests.repository import ROOT

FAULTS = 20


@given(st.integers(1, 400), st.integers(0, 9), st.sets(st.sampled_from(KINDS), min_size=1))
def test_a_seed_draws_as_many_faults_as_asked_for_each_time_the_same(total, seed, possible):
    faults = draw(total, seed, possible)
    assert [fault.number for fault in faults] == list(range(1, total + 1))
    assert Counter(fault.kind for fault in faults) == Counter(counts(total, possible))
    assert faults == draw(total, seed, possible)


def test_twenty_faults_have_every_kind():
    assert set(counts(FAULTS, KINDS)) == set(KINDS)
    assert min(counts(FAULTS, KINDS).values()) >= 1


@given(st.sampled_from(draw(60, 3, KINDS)))
def test_a_fault_that_came_too_late_is_tried_at_an_earlier_moment(fault):
    earlier = fault.earlier()
    order = [None, *STEPS]
    assert order.index(earlier.step) <= order.index(fault.step)
    assert (earlier.share, earlier.delay_s) < (fault.share, fault.delay_s)


def outcome(number, **found):
    plain = {"kind": "full disk", "hit": "train", "ended": "accepted", "said": ("no room left.",), "resumes": 1}
    nothing = dict.fromkeys(("lost", "twice", "unclean", "silent"), ())
    return Outcome(number=number, seconds=1.5, **{**plain, **nothing, **found})


def test_what_was_written_before_a_cut_is_known_again(tmp_path):
    file = tmp_path / "outcomes.jsonl"
    for number in (1, 2):
        note_outcome(file, outcome(number, lost=("G3 is lost",)))
    whole = file.read_text()
    file.write_text(whole[: len(whole) - 10])
    assert known_outcomes(file) == [outcome(1, lost=("G3 is lost",))]


def test_the_table_counts_what_was_lost():
    rows = rows_of([outcome(1), outcome(2, kind="worker killed", lost=("G3 is lost",), hit="", resumes=0)])
    assert [row[0] for row in rows] == ["full disk", "worker killed", "all"]
    assert rows[1][2:5] == ["nothing 1", "1", "0"]
    assert [row[7] for row in rows] == ["0", "1", "1"]


@pytest.mark.parametrize("said", ["", "Traceback (most recent call last):", "KeyError: 'x'", "one\ntwo"])
def test_an_exception_is_no_reason_that_a_user_can_read(said):
    assert unspoken(said)
    assert not unspoken("could not write the file: no space left on device. Free some space.")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.unproven
@pytest.mark.timeout(900)
def test_no_fault_of_twenty_loses_or_repeats_anything(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "bench.chaos", "--no-table", "--faults", str(FAULTS), "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    (file,) = tmp_path.glob("*.jsonl")
    outcomes = known_outcomes(file)
    assert len(outcomes) == FAULTS, done.stderr
    assert [(one.number, one.kind, one.problems) for one in outcomes if one.problems] == []
    assert sum(bool(one.hit) for one in outcomes) >= FAULTS * 3 // 4, "most faults meet a run at work"
    assert done.returncode == 0
