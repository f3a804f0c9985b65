"""Whatever is changed afterwards is found and named."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.database import chain, queries
from ledger.database.csv_export import HEADER, csv_text
from ledger.errors import LunaError
from ledger.home import Home
from ledger.metadata import CONFIG_FILE, METADATA_FILE, MODEL_FILE, read_metadata, write_metadata
from ledger.records import GenerationRow
from ledger.roles import ROLES
from ledger.store import Ledger
from ledger.taken import SIDES, Taken
from ledger.verification.ledger import verify
from ledger.verification.problems import Problem
from ledger.verification.weights import weights_sha
from tests.ledger.builders import (
    add_adapter,
    add_data,
    by_role,
    flip_byte,
    make_eval,
    make_full_home,
    make_ledger,
    make_move,
    make_row,
    make_trio,
    sha,
    tamper,
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_full_home(tmp_path)


def row_of(home: Home, gen_id: int = 1, role: str = "logical") -> GenerationRow:
    with Ledger.open(home) as reader:
        return next(row for row in reader.generation(gen_id) if row.role == role)


def only(problems: list[Problem], *parts: str) -> Problem:
    assert len(problems) == 1, "\n".join(map(str, problems))
    for part in parts:
        assert part in str(problems[0])
    return problems[0]


def test_an_untouched_home_has_no_problems(home):
    assert verify(home) == []


def test_a_folder_that_is_no_home_says_so(tmp_path):
    with pytest.raises(LunaError, match="is not a Luna home"):
        verify(Home(tmp_path))


def test_a_flipped_byte_in_an_adapter_is_named_with_generation_and_role(home):
    row = row_of(home)
    flip_byte(home.adapter_dir(row.child_sha) / MODEL_FILE)
    problem = only(verify(home), "adapter changed", "G1 logical", "luna reproduce G1")
    assert problem.expected == f"sha256 {row.child_sha}"
    assert problem.found != problem.expected


def test_a_flipped_byte_in_a_delta_is_named_with_its_generation(home):
    row = row_of(home)
    flip_byte(home.data_file(row.data_delta_sha))
    only(verify(home), "delta changed", row.data_delta_sha, "G1 creative+logical+dialectical")


@pytest.mark.parametrize(("field", "kind"), [("train_sha", "training set"), ("holdout_sha", "holdout")])
def test_missing_data_files_are_named(home, field, kind):
    home.data_file(getattr(row_of(home), field)).unlink()
    only(verify(home), f"{kind} missing", "G0 creative+logical+dialectical, main G1")


@pytest.mark.parametrize(
    ("file", "what"),
    [
        (MODEL_FILE, "adapter missing"),
        (CONFIG_FILE, "adapter configuration missing"),
        (METADATA_FILE, "metadata unreadable"),
    ],
)
def test_a_missing_file_of_an_adapter_is_named(home, file, what):
    (home.adapter_dir(row_of(home).child_sha) / file).unlink()
    only(verify(home), what, file, "G1 logical")


def test_a_broken_adapter_configuration_is_named(home):
    (home.adapter_dir(row_of(home).child_sha) / CONFIG_FILE).write_text("{")
    only(verify(home), "adapter configuration unreadable", "G1 logical")


def test_a_changed_base_is_named(home):
    base = next(home.bases_dir.iterdir())
    flip_byte(base / "model.safetensors")
    only(verify(home), "base changed", "base of main")
    (base / "model.safetensors").unlink()
    only(verify(home), "base unreadable", "no *.safetensors weights")


def test_metadata_may_gain_karma_but_not_another_generation(home):
    folder = home.adapter_dir(row_of(home).child_sha)
    metadata = read_metadata(folder)
    metadata["karma"]["earned"] = 55
    write_metadata(folder, metadata)
    assert verify(home) == []
    write_metadata(folder, {**metadata, "generation": 7})
    only(verify(home), "metadata contradicts the ledger", "G1 logical", "generation: 1 in the ledger, 7")


@pytest.mark.parametrize(
    "change",
    [
        "body = replace(body, '0.95', '0.99')",
        "body = body || ' '",
        "body = cast(body AS BLOB)",
        "row_sha = replace(row_sha, substr(row_sha, 1, 1), 'x')",
        "gen_id = 5",
        "kind = 'eval'",
        "lineage = 'other'",
    ],
)
def test_a_changed_row_is_named(home, change):
    tamper(home, f"UPDATE entries SET {change} WHERE kind = 'generation' AND gen_id = 1 AND role = 'logical'")
    changed = [problem for problem in verify(home) if problem.what == "row changed"]
    problem = only(changed, "logical")
    assert problem.where.startswith("entry ")


def test_a_changed_score_changes_nothing_else(home):
    tamper(home, "UPDATE entries SET body = replace(body, '1.0', '0.5') WHERE kind = 'eval' AND gen_id = 0")
    only(verify(home), "row changed", "eval main G0 logical")


def test_a_row_given_a_new_hash_breaks_the_link_of_the_next(home):
    with closing(sqlite3.connect(home.db)) as connection:
        entry = next(chain.read(connection, "eval"))
    forged = replace(entry, body=entry.body.replace("1.0", "0.5"))
    tamper(
        home,
        "UPDATE entries SET body = ?, row_sha = ? WHERE seq = ?",
        forged.body,
        chain.entry_sha(forged),
        entry.seq,
    )
    only(verify(home), "chain broken", f"entry {entry.seq + 1} ")


def test_removed_rows_are_noticed_inside_and_at_the_end(home):
    tamper(home, "DELETE FROM entries WHERE kind = 'eval' AND gen_id = 0")
    only(verify(home), "rows missing", "before entry 7")


def test_a_cut_off_end_is_noticed(home):
    tamper(home, "DELETE FROM entries WHERE seq = (SELECT max(seq) FROM entries)")
    only(verify(home), "rows missing", "end of the chain")


def test_a_head_on_a_rejected_generation_is_noticed(tmp_path):
    with make_ledger(tmp_path) as ledger:
        ledger.record_judgement(make_trio(0, verdict="rejected", reason="dull"), [], None, None)
        with ledger.db.writing() as connection:  # past the checks, as a bug would
            queries.append_record(connection, "head", "main", make_move(None, 0), 0)
    assert [p.found for p in verify(Home(tmp_path)) if p.what == "head misplaced"] == ["G0"]


def test_a_child_that_names_another_parent_is_noticed(tmp_path):
    with make_ledger(tmp_path) as ledger:
        ledger.record_judgement(make_trio(0), [], None, None)
        stray = make_row(gen_id=1, parent_gen=0, parent_sha=sha("stray"), child_sha=sha("x"))
        with ledger.db.writing() as connection:
            queries.append_record(connection, "generation", "main", stray, 1, "logical")
    (problem,) = [p for p in verify(Home(tmp_path)) if p.what == "parent link broken"]
    assert problem.found == sha("stray")


def test_an_edited_csv_is_named_with_line_and_column(home):
    home.csv.write_text(home.csv.read_text().replace("0.95", "0.99", 1))
    only(verify(home), "CSV differs", "line 2 (G0 creative)", "eval_generalization 0.95", "0.99")


def test_missing_and_extra_csv_lines_are_named(home):
    text = home.csv.read_text()
    home.csv.write_text(text + text.splitlines()[-1] + "\n")
    only(verify(home), "CSV differs", "line 8 (extra line)")
    home.csv.write_text("".join(text.splitlines(keepends=True)[:-1]))
    only(verify(home), "CSV differs", "line 7 (G1 dialectical)", "found no line")
    home.csv.write_text(text, newline="\r\n")
    only(verify(home), "CSV differs", "other line ends")
    home.csv.unlink()
    only(verify(home), "CSV missing")


def test_two_rows_with_equal_bytes_share_one_folder(tmp_path):
    home = make_full_home(tmp_path)
    with Ledger.open(home, writer=True) as ledger:
        parent = {row.role: row for row in ledger.generation(0)}
        twin = {row.role: row.child_sha for row in ledger.generation(1)}
        rows = [
            row.model_copy(update={"child_sha": twin[row.role], "trained_sha": twin[row.role]})
            for row in make_trio(
                2,
                parent,
                verdict="rejected",
                base_sha=parent["logical"].base_sha,
                train_sha=parent["logical"].train_sha,
                holdout_sha="",
                data_delta_sha=add_data(home, b"again"),
            )
        ]
        ledger.record_judgement(rows, [], None, None)
    assert verify(home) == []


@pytest.fixture(scope="module")
def judged_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, bytes, list[tuple[int, int]]]:
    """A home, its database's bytes, and where the generation rows' bodies lie in the file."""
    home = make_full_home(tmp_path_factory.mktemp("home"))
    with closing(sqlite3.connect(home.db)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        bodies = [b for (b,) in connection.execute("SELECT body FROM entries WHERE kind = 'generation'")]
    content = home.db.read_bytes()
    spans = [(content.index(body.encode()[:300]), 300) for body in bodies]
    return home, content, spans


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_bit_in_a_stored_row_is_found_and_the_row_named(judged_file, data):
    home, content, spans = judged_file
    which = data.draw(st.integers(0, len(spans) - 1))
    start, length = spans[which]
    position = start + data.draw(st.integers(0, length - 1))
    damaged = bytearray(content)
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    home.db.write_bytes(bytes(damaged))
    try:
        changed = [problem.where for problem in verify(home) if problem.what == "row changed"]
    finally:
        home.db.write_bytes(content)
    assert len(changed) == 1
    assert f"G{which // len(ROLES)} {ROLES[which % len(ROLES)]}" in changed[0]


def test_a_damaged_database_file_is_reported_and_not_raised(home):
    flip_byte(home.db, 5)
    only(verify(home), "database cannot be read", "luna.db")


# -- the tables beside the chain ---------------------------------------------------------------------------


@pytest.fixture
def taking(tmp_path: Path) -> Home:
    """A home whose two generations took examples and keys; no files."""
    with make_ledger(tmp_path) as ledger:
        for gen_id, parent in ((0, None), (1, by_role(make_trio(0)))):
            taken = [Taken(sha(f"{gen_id} {n}"), SIDES[n % 2], (n, -n - gen_id)) for n in range(1, 5)]
            ledger.record_judgement(make_trio(gen_id, parent), [], make_move(ledger.head(), gen_id), taken=taken)
        ledger.record_judgement(make_trio(2, by_role(ledger.generation(1)), verdict="rejected"), [])
    return Home(tmp_path)


def of_tables(home: Home) -> list[Problem]:
    return [problem for problem in verify(home) if "missing" not in problem.what]


def test_tables_that_fit_the_chain_have_no_problems(taking):
    assert of_tables(taking) == []
    with Ledger.open(taking, writer=True) as ledger:
        ledger.move_head(make_move(1, 0, "rollback"))
        ledger.note_taken(0, [Taken(sha(f"0 {n}"), SIDES[n % 2], ()) for n in range(1, 5)])
    assert of_tables(taking) == []


@pytest.mark.parametrize(
    ("statement", "what", "where"),
    [
        ("DELETE FROM latest_taken WHERE rowid_is_first", "taken differs", "taken main G"),
        ("DELETE FROM latest_taken WHERE gen_id = 1", "taken differs", "taken main G1"),
        (
            "INSERT INTO latest_taken SELECT lineage, example, 0, side FROM latest_taken WHERE gen_id = 1 LIMIT 1",
            "taken",
            "main G0",
        ),
        (
            "INSERT INTO latest_taken SELECT lineage, example, 2, side FROM latest_taken WHERE gen_id = 1 LIMIT 1",
            "taken",
            "main G2",
        ),
        ("UPDATE latest_taken SET side = 1 - side WHERE rowid_is_first", "taken differs", "main G"),
        ("UPDATE latest_taken SET example = zeroblob(16) WHERE rowid_is_first", "taken differs", "main G"),
        ("DELETE FROM latest_sides WHERE key = 3", "sides differ", "sides of main"),
        ("DELETE FROM latest_sides", "sides differ", "sides of main"),
        ("UPDATE latest_sides SET key = key + 100 WHERE key = 3", "sides differ", "sides of main"),
        ("UPDATE latest_sides SET side = 1 - side WHERE key = 3", "sides differ", "sides of main"),
        ("INSERT INTO sides VALUES (7, 1, 1, 0)", "sides differ", "sides of 7"),
        ("DELETE FROM line WHERE gen_id = 1", "line differs", "line main G1"),
        ("INSERT INTO line VALUES (1, 2)", "line differs", "line main G2"),
        ("UPDATE generations SET age = 5 WHERE gen_id = 1", "generation differs", "main G1"),
        ("UPDATE generations SET parent_gen = NULL WHERE gen_id = 2", "generation differs", "main G2"),
        ("DELETE FROM generations WHERE gen_id = 2", "generation differs", "main G2"),
        ("UPDATE csv_state SET bytes = bytes + 1", "length of the CSV", "csv_state"),
    ],
)
def test_a_table_that_is_not_what_the_chain_says_is_named(taking, statement, what, where):
    first = "example = (SELECT min(example) FROM latest_taken)"
    tamper(taking, statement.replace("rowid_is_first", first))
    only(of_tables(taking), what, where)


def test_a_note_of_what_was_taken_cannot_be_changed_either(taking):
    tamper(taking, "UPDATE entries SET body = replace(body, '4', '3') WHERE kind = 'taken' AND gen_id = 1")
    only(of_tables(taking), "row changed", "taken main G1")


# -- the CSV itself ------------------------------------------------------------------------------------------


def test_the_csv_begins_with_the_columns_of_the_design():
    assert ",".join(HEADER).startswith(
        "GEN_ID,parent_sha,child_sha,data_delta_sha,steps,lr,walltime_min,loss_start,loss_end,eval_recall,"
        "eval_generalization,eval_style_drift,role,verdict,reason,base_sha,config_sha,seed,trained_at,"
    )
    assert HEADER[-1] == "row_sha"


def test_a_home_that_an_earlier_version_wrote_last_is_whole_and_its_csv_gets_the_new_column_from_a_writer(home):
    """An upgrade alone made `luna ledger verify` find every line of the CSV wrong."""
    cut = [",".join([*line.split(",")[:-2], line.split(",")[-1]]) for line in home.csv.read_text().splitlines()]
    home.csv.write_text("\n".join(cut) + "\n")
    tamper(home, f"UPDATE csv_state SET header = '{cut[0]}\n', bytes = {home.csv.stat().st_size}")
    assert verify(home) == []
    home.csv.write_text(home.csv.read_text().replace("accepted", "rejected", 1))
    only(verify(home), "CSV differs", "G0")
    Ledger.open(home, writer=True).close()
    assert verify(home) == []
    assert home.csv.read_text().splitlines()[0] == ",".join(HEADER)


def test_a_header_that_no_version_had_is_not_taken_for_an_earlier_one(home):
    lines = home.csv.read_text().splitlines()
    home.csv.write_text("".join(line.split(",", 1)[1] + "\n" for line in lines))
    header = lines[0].split(",", 1)[1]
    tamper(home, f"UPDATE csv_state SET header = '{header}\n', bytes = {home.csv.stat().st_size}")
    assert {problem.what for problem in verify(home)} == {"CSV differs", "length of the CSV wrong"}


@given(st.floats(0, 1), st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])))
def test_the_csv_gives_back_what_was_written(share, reason):
    row = make_row(eval_recall=share, eval_style_drift=None, reason=reason)
    (cells,) = csv.DictReader(io.StringIO(csv_text([(row, sha("row"))]), newline=""))
    assert float(cells["eval_recall"]) == share
    assert (cells["reason"], cells["eval_style_drift"], cells["row_sha"]) == (reason, "", sha("row"))
    assert (cells["GEN_ID"], cells["parent_gen"], cells["lr"]) == ("0", "", "0.0002")


def test_the_files_of_a_second_channel_are_checked_and_its_columns_are_empty_without_one(home):
    files = {name: add_data(home, name.encode()) for name in ("pref_sha", "pref_holdout_sha", "rewards_sha")}
    with Ledger.create(home) as ledger:
        before = ledger.generation(1)[0]
        data = {name: getattr(before, name) for name in ("base_sha", "train_sha", "holdout_sha", "data_delta_sha")}
        rows = make_trio(2, by_role(ledger.generation(1)), **data, **files, reward_sha=sha("reward model"))
        for row in rows:
            add_adapter(home, row)
        ledger.record_judgement(rows, [], make_move(1, 2), None)
        assert ledger.generation(2) == rows
    header, *lines = list(csv.reader(home.csv.read_text().splitlines()))
    own = [
        "pref_sha",
        "pref_holdout_sha",
        "reward_sha",
        "rewards_sha",
        "collected_sha",
        "view_sha",
        "rehearsed_sha",
        "gpu",
        "row_sha",
    ]
    assert header[-9:] == own
    assert lines[0][-9:-1] == [""] * 8
    assert lines[-1][-9] == files["pref_sha"]
    assert verify(home) == []
    flip_byte(home.data_file(files["pref_sha"]))
    only(verify(home), "preference pairs changed", "G2")


def test_the_chain_can_be_checked_without_luna(home):
    """The recipe that docs/ledger.md gives."""
    previous = "0" * 64
    with closing(sqlite3.connect(home.db)) as connection:
        connection.row_factory = sqlite3.Row
        for row in map(dict, connection.execute("SELECT * FROM entries ORDER BY seq")):
            stated = row.pop("row_sha")
            text = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            assert row["prev_sha"] == previous
            previous = hashlib.sha256(text.encode()).hexdigest()
            assert previous == stated


# -- weights and rows ----------------------------------------------------------------------------------------


def test_weights_are_named_by_every_safetensors_file_and_nothing_else(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"a")
    (tmp_path / "b.safetensors").write_bytes(b"b")
    first = weights_sha(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert weights_sha(tmp_path) == first
    (tmp_path / "b.safetensors").rename(tmp_path / "c.safetensors")
    assert weights_sha(tmp_path) != first
    with pytest.raises(LunaError, match="holds no"):
        weights_sha(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"child_sha": "abc"}, "String should match pattern"),
        ({"loss_end": float("nan")}, "finite number"),
        ({"eval_recall": 1.5}, "less than or equal to 1"),
        ({"trained_at": "yesterday"}, "String should match pattern"),
        ({"trained_sha": sha("raw")}, "alpha is 1.0, so trained_sha must equal child_sha"),
        ({"parent_sha": sha("other")}, "without a parent generation"),
        ({"parent_gen": 0}, "must be below"),
        ({"reason": "two\nlines"}, "String should match pattern"),
        ({"mood": "good"}, "Extra inputs are not permitted"),
    ],
)
def test_a_row_that_cannot_be_true_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make_row(**change)


def test_an_interpolated_row_names_both_adapters():
    row = make_row(alpha=0.5, trained_sha=sha("raw"))
    assert (row.child_sha, row.trained_sha) == (sha("child"), sha("raw"))
    assert make_eval("logical", "recall", 0.5).value == 0.5
