from __future__ import annotations

import os
import pickle
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.database import queries
from ledger.database.csv_export import csv_text
from ledger.errors import LunaError
from ledger.home import Home
from ledger.journal import RunJournal
from ledger.records import HeadMove, Stop
from ledger.rules.stop_rule import GenerationScores, StopRuleSettings, generation_scores, stop_decision
from ledger.store import Ledger
from tests.ledger.builders import (
    AT,
    add_generation,
    by_role,
    compared,
    make_eval,
    make_ledger,
    make_move,
    make_trio,
    sha,
)


@pytest.fixture
def ledger(tmp_path: Path):
    with make_ledger(tmp_path) as opened:
        yield opened


@pytest.fixture
def journal(ledger: Ledger):
    return RunJournal(ledger.db)


def head_moves(ledger: Ledger) -> list[str]:
    """Why the head of `main` moved, oldest first."""
    with ledger.db.reading() as connection:
        return [move.reason for move in queries.records(connection, HeadMove, "head", "main")]


def make_stop(*deltas: str) -> Stop:
    return Stop(reason="fix the data", data_delta_shas=tuple(map(sha, deltas)))


def test_a_new_lineage_has_no_head_and_begins_at_g0(ledger):
    assert ledger.current_lineage() == "main"
    assert (ledger.head(), ledger.age(), ledger.next_gen_id(), ledger.rows()) == (None, None, 0, [])


def test_a_judgement_is_read_back_as_it_was_written(ledger):
    rows, evals = make_trio(0), [make_eval("logical", "recall", 1.0)]
    ledger.record_judgement(rows, evals, make_move(None, 0), None)
    assert ledger.rows() == rows
    assert ledger.generation(0) == rows
    assert ledger.evals(0) == evals
    assert ledger.head() == 0
    assert ledger.is_judged(0)
    assert not ledger.is_judged(1)


def test_everything_is_there_after_reopening(tmp_path):
    with make_ledger(tmp_path) as ledger:
        rows = add_generation(ledger, 0, None)
    with Ledger.open(Home(tmp_path), writer=False) as reader:
        assert (reader.rows(), reader.head(), reader.current_lineage()) == (rows, 0, "main")
    with Ledger.open(Home(tmp_path), writer=True) as writer:
        add_generation(writer, 1, 0)
        assert writer.head() == 1


def test_age_counts_accepted_ancestors_and_not_numbers(ledger):
    add_generation(ledger, 0, None)
    add_generation(ledger, 1, 0)
    assert (ledger.head(), ledger.age()) == (1, 1)
    add_generation(ledger, 2, 1, verdict="rejected", reason="too dull")
    add_generation(ledger, 3, 1)
    assert (ledger.head(), ledger.age(), ledger.parent_chain(3)) == (3, 2, [3, 1, 0])
    assert ledger.parent_chain(2) == [2, 1, 0]


def test_a_rejected_generation_leaves_the_head_and_keeps_its_number(ledger):
    add_generation(ledger, 0, None)
    add_generation(ledger, 1, 0, verdict="rejected", reason="too dull")
    assert ledger.head() == 0
    assert ledger.next_gen_id() == 2


def test_the_last_judged_generation_is_the_one_of_the_highest_number_accepted_or_not(ledger):
    assert ledger.last_judged() == []
    add_generation(ledger, 0, None)
    rows = add_generation(ledger, 1, 0, verdict="rejected", reason="too dull")
    assert ledger.last_judged() == rows


def test_the_latest_rows_are_those_of_all_lineages_as_the_csv_has_them(ledger):
    add_generation(ledger, 0, None)
    ledger.create_lineage("second", sha("base"))
    add_generation(ledger, 0, None, lineage="second")
    ledger.create_lineage("main", sha("base"))
    add_generation(ledger, 1, 0)
    found, more = ledger.latest_rows(2)
    assert [(row.lineage, row.gen_id) for row, _ in found] == [("second", 0)] * 3 + [("main", 1)] * 3
    assert more
    everything, more = ledger.latest_rows(None)
    assert (csv_text(everything), more) == (ledger.db.home.csv.read_text(), False)
    assert ledger.latest_rows(3) == (everything, False)


def test_a_number_reserved_by_an_abandoned_run_is_not_used_again(ledger, journal):
    journal.create_run("run-a", "main", 0, {})
    journal.finish_run("run-a", "abandoned")
    assert ledger.next_gen_id() == 1


def test_recording_the_same_judgement_again_adds_nothing(ledger):
    add_generation(ledger, 0, None)
    before = ledger.rows()
    ledger.record_judgement(make_trio(0), [], make_move(None, 0), None)
    assert ledger.rows() == before
    assert head_moves(ledger) == ["accepted"]


def test_another_judgement_under_a_used_number_is_refused(ledger):
    add_generation(ledger, 0, None)
    with pytest.raises(LunaError, match=r"G0 .* judged already"):
        ledger.record_judgement(make_trio(0, verdict="rejected"), [], None, None)


def test_a_refused_judgement_leaves_nothing_behind(ledger):
    add_generation(ledger, 0, None)
    rows = make_trio(1, by_role(ledger.generation(0)))
    with pytest.raises(LunaError, match="it has moved meanwhile"):
        ledger.record_judgement(rows, [], make_move(None, 1), None)
    assert not ledger.is_judged(1)
    assert ledger.head() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_sha": sha("other"), "parent_sha": sha("other")}, "stands on"),
        ({"parent_gen": 0, "gen_id": 5, "parent_sha": sha("x")}, "never accepted"),
        ({"lineage": "unknown"}, "no lineage 'unknown'; there is: main"),
    ],
)
def test_rows_that_do_not_fit_the_lineage_are_refused(ledger, change, message):
    with pytest.raises(LunaError, match=message):
        ledger.record_judgement(make_trio(change.pop("gen_id", 0), **change), [], None, None)


def test_a_child_must_name_its_parents_adapter(ledger):
    add_generation(ledger, 0, None)
    rows = make_trio(1, by_role(ledger.generation(0)), parent_sha=sha("someone else"))
    with pytest.raises(LunaError, match="was trained from"):
        ledger.record_judgement(rows, [], None, None)


def test_a_rejected_generation_cannot_be_a_parent_or_the_head(ledger):
    add_generation(ledger, 0, None)
    rejected = add_generation(ledger, 1, 0, verdict="rejected", reason="dull")
    with pytest.raises(LunaError, match="never accepted"):
        ledger.record_judgement(make_trio(2, by_role(rejected)), [], None, None)
    with pytest.raises(LunaError, match="G1 was rejected"):
        ledger.move_head(make_move(0, 1))


def test_a_judgement_needs_one_row_for_each_role(ledger):
    with pytest.raises(LunaError, match="one row for each of creative, logical, dialectical"):
        ledger.record_judgement(make_trio(0)[:2], [], None, None)
    with pytest.raises(LunaError, match="found none"):
        ledger.record_judgement([], [], None, None)


def test_a_score_that_contradicts_its_row_is_refused(ledger):
    with pytest.raises(LunaError, match=r"eval_recall 1\.0, its score says 0\.5"):
        ledger.record_judgement(make_trio(0), [make_eval("logical", "recall", 0.5)], None, None)


def test_rolling_back_moves_the_head_and_the_next_number_still_grows(ledger):
    add_generation(ledger, 0, None)
    add_generation(ledger, 1, 0)
    ledger.move_head(make_move(1, 0, "rollback"))
    assert (ledger.head(), ledger.next_gen_id()) == (0, 2)
    assert head_moves(ledger) == ["accepted", "accepted", "rollback"]


def test_moving_the_head_where_it_is_adds_nothing(ledger):
    add_generation(ledger, 0, None)
    ledger.move_head(make_move(0, 0, "rollback"))
    assert head_moves(ledger) == ["accepted"]


def test_a_stop_holds_until_a_later_generation_is_judged(ledger):
    add_generation(ledger, 0, None)
    add_generation(ledger, 1, 0)
    rows = make_trio(2, by_role(ledger.generation(1)))
    stop = make_stop("one", "two")
    ledger.record_judgement(rows, [], make_move(1, 0, "stop_rule"), stop)
    assert (ledger.stop_of(), ledger.last_stop_gen(), ledger.head()) == (stop, 2, 0)
    add_generation(ledger, 3, 0)
    assert (ledger.stop_of(), ledger.last_stop_gen()) == (None, 2)


def test_scores_leave_out_what_was_not_measured(ledger):
    add_generation(ledger, 0, None)  # rows without the scores that hold a child against its parent
    (scores,) = ledger.stop_window(1, 0)
    assert (scores.gain, scores.style_drift) == ({}, {})
    add_generation(ledger, 1, 0, compared(1, 0.2, 0.1), eval_generalization=0.7, eval_style_drift=0.1)
    assert ledger.stop_window(2, 1)[-1].gain == {"creative": 0.2, "logical": 0.2, "dialectical": 0.2}


gains, drifts = st.sampled_from([-0.3, 0.02, 0.3]), st.sampled_from([0.0, 0.05, 0.15, 0.3])
steps = st.tuples(st.sampled_from(["accept", "accept", "reject", "back"]), gains, drifts, st.integers(0, 20))


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, min_size=3, max_size=14))
def test_the_stop_rule_needs_no_more_than_its_window_and_undoes_nothing_that_gained(tmp_path_factory, story):
    with make_ledger(tmp_path_factory.mktemp("story")) as ledger:
        everything: list[GenerationScores] = []
        for kind, gain, drift, number in story:
            head, gen_id = ledger.head(), ledger.next_gen_id()
            ancestors = [] if head is None else ledger.parent_chain(head)
            if kind == "back":
                if ancestors:
                    ledger.move_head(make_move(head, ancestors[number % len(ancestors)], "rollback"))
                continue
            parent = None if head is None else by_role(ledger.generation(head))
            rows = make_trio(
                gen_id,
                parent,
                verdict="accepted" if kind == "accept" else "rejected",
                eval_generalization=0.5 + gain,
                eval_style_drift=drift,
            )
            evals = compared(gen_id, gain, drift)
            new, last = generation_scores(rows, evals), ledger.last_stop_gen()
            everything.append(new)
            decision = stop_decision([*ledger.stop_window(gen_id, head), new], last, StopRuleSettings())
            assert decision == stop_decision(everything, last, StopRuleSettings())
            move, stop = make_move(head, gen_id) if kind == "accept" else None, None
            if decision is not None:
                assert decision.head in ancestors  # never forward
                undone = {one.gen_id for one in everything if one.gen_id in ancestors and one.gen_id > decision.head}
                assert all(one.gain["logical"] < 0.05 for one in everything if one.gen_id in undone)
                assert undone <= set(decision.generations)
                stop = make_stop("one")
                move = None if decision.head == head else make_move(head, decision.head, "stop_rule")
            ledger.record_judgement(rows, evals, move, stop)


def test_the_stop_rule_leaves_a_head_alone_that_its_user_has_rolled_back(ledger):
    """G1 to G3 gained little, the user went back to G0, and a bad G4 comes: the head stays at G0, not at G2."""
    same = {"eval_generalization": 0.52, "eval_style_drift": 0.0}
    for gen_id in range(4):
        add_generation(ledger, gen_id, gen_id - 1 if gen_id else None, compared(gen_id, 0.02, 0.0), **same)
    ledger.move_head(make_move(3, 0, "rollback"))
    rows = make_trio(4, by_role(ledger.generation(0)), verdict="rejected")
    new = generation_scores(rows, compared(4, 0.02, 0.3))
    decision = stop_decision([*ledger.stop_window(4, 0), new], None, StopRuleSettings())
    assert decision is not None
    assert (decision.generations, decision.head) == ((1, 4), 0)


def test_lineages_number_their_generations_apart(ledger):
    add_generation(ledger, 0, None)
    ledger.create_lineage("second", sha("base"))
    assert (ledger.current_lineage(), ledger.next_gen_id(), ledger.next_gen_id("main")) == ("second", 0, 1)
    add_generation(ledger, 0, None, lineage="second")
    ledger.create_lineage("main", sha("base"))
    assert (ledger.current_lineage(), ledger.head(), ledger.head("second")) == ("main", 0, 0)
    assert [lineage.name for lineage in ledger.lineages()] == ["main", "second"]


def test_creating_a_lineage_again_is_harmless_but_not_over_another_base(ledger):
    ledger.create_lineage("main", sha("base"))
    assert len(ledger.lineages()) == 1
    with pytest.raises(LunaError, match="stands on the base"):
        ledger.create_lineage("main", sha("other base"))
    with pytest.raises(LunaError, match="cannot name a lineage"):
        ledger.create_lineage("../up", sha("base"))


def test_unknown_generations_and_lineages_are_named(ledger):
    with pytest.raises(LunaError, match="no judged generation G4"):
        ledger.generation(4)
    with pytest.raises(LunaError, match="no lineage 'nowhere'; there is: main"):
        ledger.head("nowhere")


def test_a_home_without_lineage_says_so(tmp_path):
    with Ledger.create(Home(tmp_path)) as ledger, pytest.raises(LunaError, match="no lineage yet"):
        ledger.head()


def test_a_folder_that_is_no_home_says_so(tmp_path):
    for writer in (False, True):
        with pytest.raises(LunaError, match="is not a Luna home"):
            Ledger.open(Home(tmp_path), writer=writer)


def test_a_second_writer_is_refused_and_told_who_holds_the_ledger(tmp_path):
    with make_ledger(tmp_path):
        with pytest.raises(LunaError, match=f"process {os.getpid()} on "):
            Ledger.open(Home(tmp_path), writer=True)
        Ledger.open(Home(tmp_path), writer=False).close()
    Ledger.open(Home(tmp_path), writer=True).close()


def test_a_reader_follows_the_writer_and_cannot_write(tmp_path):
    with make_ledger(tmp_path) as writer, Ledger.open(Home(tmp_path)) as reader:
        add_generation(writer, 0, None)
        assert reader.head() == 0
        with pytest.raises(LunaError, match="opened for reading"):
            reader.move_head(make_move(0, 0))


def test_the_chain_refuses_updates_and_deletions(ledger):
    with closing(sqlite3.connect(ledger.db.home.db)) as shell:
        for statement in ("UPDATE entries SET body = '{}'", "DELETE FROM entries"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                shell.execute(statement)


def test_threads_may_share_one_ledger(ledger, journal):
    add_generation(ledger, 0, None)
    journal.create_run("run-a", "main", 1, {})
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for number in range(10):
                journal.record_step("run-a", "train", "before", {"thread": name, "number": number})
                assert ledger.head() == 0
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(journal.attempts("run-a", "train")) == 40


def test_errors_survive_pickling(ledger):
    with pytest.raises(LunaError) as caught:
        ledger.generation(9)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_run_is_resumed_where_it_stopped(tmp_path):
    with make_ledger(tmp_path) as ledger:
        journal = RunJournal(ledger.db)
        journal.create_run("run-a", "main", 0, {"steps": 5})
        journal.record_step("run-a", "collect", "before")
        journal.record_step("run-a", "collect", "after", {"n": 3})
        journal.record_step("run-a", "plan", "before", {"try": 1})
    with Ledger.open(Home(tmp_path), writer=True) as ledger:
        journal = RunJournal(ledger.db)
        run = journal.open_run("main")
        assert run is not None
        assert (run.run_id, run.gen_id, run.request) == ("run-a", 0, {"steps": 5})
        assert (run.finished_steps, run.next_step) == (("collect",), "plan")
        assert journal.step_result("run-a", "collect") == {"n": 3}
        assert journal.step_result("run-a", "plan") is None
        journal.record_step("run-a", "plan", "before", {"try": 2})
        assert len(journal.attempts("run-a", "plan")) == 2


def test_a_lineage_has_one_open_run_at_a_time(journal):
    journal.create_run("run-a", "main", 0, {})
    with pytest.raises(LunaError, match="already raising G0 in run run-a"):
        journal.create_run("run-b", "main", 1, {})
    journal.finish_run("run-a", "done", at=AT)
    journal.create_run("run-b", "main", 1, {})
    assert [(run.run_id, run.state) for run in journal.runs()] == [("run-a", "done"), ("run-b", "open")]


def test_a_closed_run_takes_no_more_steps(journal):
    journal.create_run("run-a", "main", 0, {})
    journal.finish_run("run-a", "failed", "no data")
    journal.finish_run("run-a", "failed", "said again")
    assert journal.runs()[0].message == "no data"
    with pytest.raises(LunaError, match="is failed; it takes no further steps"):
        journal.record_step("run-a", "collect", "before")
    with pytest.raises(LunaError, match="cannot become done"):
        journal.finish_run("run-a", "done")


def test_a_step_cannot_finish_before_it_began(journal):
    journal.create_run("run-a", "main", 0, {})
    with pytest.raises(LunaError, match="without having begun"):
        journal.record_step("run-a", "train", "after")
    with pytest.raises(LunaError, match="no run 'run-x'"):
        journal.record_step("run-x", "train", "before")
