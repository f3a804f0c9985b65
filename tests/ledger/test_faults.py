"""Crashes, full disks and foreign files: nothing is lost, nothing half-written is seen."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ledger.database.migrations
from ledger.database.migrations import MIGRATIONS, NEWEST, migrate, schema_version
from ledger.errors import LunaError
from ledger.files import publish_dir, write_atomic
from ledger.home import Home
from ledger.store import Ledger, Stores
from ledger.verification.ledger import verify
from tests.ledger.builders import add_generation, make_full_home, make_ledger, make_move, make_older, sha, tamper

REPOSITORY = Path(__file__).parents[2]

RECORD_G1 = """
import os, signal, sys
from pathlib import Path
from ledger.home import Home
from ledger.store import Ledger
from ledger.errors import LunaError
from tests.ledger.builders import add_generation
ledger = Ledger.open(Home(Path(sys.argv[1])), writer=True)
"""


def run_python(code: str, home: Home) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, str(home.root)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def judged(home: Home) -> list[int]:
    with Ledger.open(home) as reader:
        return sorted({row.gen_id for row in reader.rows()})


def csv_problems(home: Home) -> list[str]:
    return [problem.what for problem in verify(home) if "CSV" in problem.what]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    with make_ledger(tmp_path) as opened:
        add_generation(opened, 0, None)
    return Home(tmp_path)


def test_a_kill_between_commit_and_csv_is_healed_by_the_next_writer(home):
    kill = "ledger.derive_csv = lambda: os.kill(os.getpid(), signal.SIGKILL)\nadd_generation(ledger, 1, 0)\n"
    assert run_python(RECORD_G1 + kill, home).returncode == -signal.SIGKILL
    assert judged(home) == [0, 1]
    assert csv_problems(home) == ["CSV differs"] * 3
    Ledger.open(home, writer=True).close()
    assert csv_problems(home) == []


def test_a_kill_before_the_commit_leaves_no_trace(home):
    kill = (
        "from ledger.database import queries\n"
        "real = queries.append_record\n"
        "def append_record(connection, kind, *rest):\n"
        "    entry = real(connection, kind, *rest)\n"
        "    if kind == 'head': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return entry\n"
        "queries.append_record = append_record\n"
        "add_generation(ledger, 1, 0)\n"
    )
    assert run_python(RECORD_G1 + kill, home).returncode == -signal.SIGKILL
    with Ledger.open(home, writer=True) as ledger:
        assert [row.gen_id for row in ledger.rows()] == [0, 0, 0]
        assert ledger.head() == 0
        add_generation(ledger, 1, 0)
    assert csv_problems(home) == []


def test_a_full_disk_while_recording_changes_nothing_and_says_what_to_do(home):
    size = home.db.stat().st_size
    limit = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    for gen_id in range(1, 60):\n"
        "        add_generation(ledger, gen_id, gen_id - 1, reason='x' * 4000)\n"
        "except LunaError as error:\n"
        "    print(ledger.head(), error)\n"
    )
    done = run_python(RECORD_G1 + limit, home)
    head, _, message = done.stdout.partition(" ")
    assert "free some space" in message, done.stderr
    assert "Traceback" not in done.stderr
    with Ledger.open(home, writer=True) as ledger:
        assert ledger.head() == int(head)
        add_generation(ledger, int(head) + 1, int(head))
    assert csv_problems(home) == []
    assert [problem for problem in verify(home) if "row" in problem.what] == []


def test_a_full_disk_while_writing_the_csv_keeps_the_old_one_and_heals(home):
    before = home.csv.read_text()
    limit = (
        "import resource\n"
        "from ledger.database import csv_export\n"
        "real = csv_export.append_synced\n"
        "def limited(path, data, size):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))\n"
        "    real(path, data, size)\n"
        "csv_export.append_synced = limited\n"
        "try:\n"
        "    add_generation(ledger, 1, 0)\n"
        "except LunaError as error:\n"
        "    print(error)\n"
    )
    done = run_python(RECORD_G1 + limit, home)
    assert "could not write" in done.stdout, done.stderr
    assert home.csv.read_text() == before
    assert judged(home) == [0, 1]
    assert list(home.csv.parent.glob("*.tmp")) == []
    Ledger.open(home, writer=True).close()
    assert csv_problems(home) == []


def test_a_kill_in_the_middle_of_a_line_is_healed_by_the_next_writer(home):
    kill = (
        "real = os.pwrite\n"
        "def half(descriptor, data, offset):\n"
        "    real(descriptor, data[: len(data) // 2], offset)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.pwrite = half\n"
        "add_generation(ledger, 1, 0)\n"
    )
    assert run_python(RECORD_G1 + kill, home).returncode == -signal.SIGKILL
    assert judged(home) == [0, 1]
    assert not home.csv.read_text().endswith("\n")
    assert csv_problems(home) != []
    Ledger.open(home, writer=True).close()
    assert csv_problems(home) == []


def test_a_full_disk_while_the_csv_is_written_anew_keeps_the_old_one(home):
    home.csv.write_text("edited")
    limit = (
        "import resource\n"
        "from pathlib import Path\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))\n"
    )
    done = run_python(limit + RECORD_G1, home)
    assert done.returncode == 1
    assert home.csv.read_text() == "edited"
    Ledger.open(home, writer=True).close()
    assert csv_problems(home) == []


def test_a_judgement_adds_to_the_csv_and_leaves_what_stands_there(home):
    before, file = home.csv.read_bytes(), home.csv.stat().st_ino
    with Ledger.open(home, writer=True) as ledger:
        add_generation(ledger, 1, 0)
        ledger.record_judgement(ledger.generation(1), [], None, None)
    assert home.csv.stat().st_ino == file
    assert home.csv.read_bytes().startswith(before)
    assert csv_problems(home) == []


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_happened_to_the_csv_the_next_writer_makes_it_right(tmp_path_factory, data):
    home = Home(tmp_path_factory.mktemp("home"))
    with make_ledger(home.root) as ledger:
        for gen_id in range(3):
            add_generation(ledger, gen_id, gen_id - 1 if gen_id else None, reason='one, "two" and ½')
    whole = home.csv.read_bytes()
    cut = data.draw(st.one_of(st.integers(0, len(whole)), st.sampled_from(line_ends(whole))))
    added = data.draw(st.binary(max_size=20))
    home.csv.write_bytes(whole[:cut] + added)
    if data.draw(st.booleans()):
        home.csv.unlink()
    with Ledger.open(home, writer=True) as ledger:
        assert home.csv.read_bytes() == whole or len(added) + cut == len(whole)
        add_generation(ledger, 3, 2)
    if len(added) + cut != len(whole):
        assert csv_problems(home) == []


def line_ends(text: bytes) -> list[int]:
    return [place + 1 for place, byte in enumerate(text) if byte == 10]


def test_a_luna_that_knows_more_columns_writes_the_csv_anew(home):
    home.csv.write_text(home.csv.read_text().replace("GEN_ID", "GEN", 1))
    tamper(home, "UPDATE csv_state SET header = replace(header, 'GEN_ID', 'GEN')")
    Ledger.open(home, writer=True).close()
    assert csv_problems(home) == []


def test_a_half_written_temporary_file_is_never_taken_for_the_real_one(tmp_path):
    home = make_full_home(tmp_path)
    for folder in (home.csv.parent, home.data_dir):
        (folder / ".leftover.1234abcd.tmp").write_text("GEN_ID,par")
    assert verify(home) == []
    Ledger.open(home, writer=True).close()
    assert verify(home) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "file"
    write_atomic(target, "old")

    def refuse(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(LunaError, match=r"could not write .*file: No space left on device\..*free some space"):
        write_atomic(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_publishing_the_same_folder_twice_keeps_the_first(tmp_path):
    for attempt in ("one", "two"):
        (tmp_path / attempt / "inner").mkdir(parents=True)
        (tmp_path / attempt / "inner" / "weights").write_text("same")
        publish_dir(tmp_path / attempt, tmp_path / "models" / "final")
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
    assert (tmp_path / "models" / "final" / "inner" / "weights").read_text() == "same"


def test_the_writers_lock_is_free_again_after_a_kill(home):
    assert run_python(RECORD_G1 + "os.kill(os.getpid(), signal.SIGKILL)", home).returncode < 0
    Ledger.open(home, writer=True).close()


def test_another_process_is_refused_as_second_writer(home):
    with Ledger.open(home, writer=True):
        done = run_python(RECORD_G1.replace("ledger = ", "print('opened')\nledger = "), home)
    assert done.returncode == 1
    assert f"is being written by process {os.getpid()}" in done.stderr


@pytest.mark.parametrize("version", [1, 4])
def test_an_older_schema_is_migrated_without_losing_rows(tmp_path, version):
    home = Home(tmp_path)
    with make_ledger(tmp_path) as ledger:
        for gen_id, parent in ((0, None), (1, 0), (2, 1)):
            add_generation(ledger, gen_id, parent)
        ledger.move_head(make_move(2, 1, "rollback"))
        add_generation(ledger, 3, 1, verdict="rejected", reason="dull")
        add_generation(ledger, 4, 1)
        ledger.create_lineage("second", sha("base"))
        ledger.create_lineage("main", sha("base"))
    make_older(home, version)
    with pytest.raises(LunaError, match=f"schema version {version}, older than"):
        Ledger.open(home)
    with Stores.create(home) as stores:
        found = stores.ledger
        assert (found.current_lineage(), found.head(), found.age(), found.next_gen_id()) == ("main", 4, 2, 5)
        assert (found.parent_chain(4), found.parent_chain(2)) == ([4, 1, 0], [2, 1, 0])
        assert (found.head("second"), found.next_gen_id("second")) == (None, 0)
        stores.journal.create_run("run-1", "main", stores.ledger.next_gen_id(), {})
    with Stores.open(home) as stores:
        assert len(stores.journal.runs()) == 1
        assert csv_problems(home) == []


def test_a_bug_in_a_query_is_not_taken_for_a_full_disk(home):
    with (
        Ledger.open(home) as ledger,
        pytest.raises(sqlite3.OperationalError, match="no such column"),
        ledger.db.reading() as connection,
    ):
        connection.execute("SELECT mistyped FROM entries")


def test_a_newer_schema_is_refused_and_left_alone(home):
    with closing(sqlite3.connect(home.db)) as connection:
        connection.execute("INSERT INTO schema_version VALUES (99)")
        connection.commit()
    for attempt in (lambda: Ledger.open(home, writer=True), lambda: Ledger.open(home), lambda: verify(home)):
        with pytest.raises(LunaError, match=r"schema version 99.*Upgrade Luna"):
            attempt()
    with closing(sqlite3.connect(home.db)) as connection:
        connection.execute("DELETE FROM schema_version WHERE version = 99")
        connection.commit()
    Ledger.open(home, writer=True).close()  # the refusal gave the lock back


def test_a_migration_that_fails_is_rolled_back_whole(monkeypatch):
    half = "CREATE TABLE half (x); INSERT INTO nowhere VALUES (1);"
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        monkeypatch.setattr(ledger.database.migrations, "MIGRATIONS", (*MIGRATIONS, half))
        with pytest.raises(sqlite3.OperationalError, match="nowhere"):
            migrate(connection, "memory")
        assert schema_version(connection) == NEWEST
        assert connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'half'").fetchone() is None


def test_a_file_that_is_no_database_is_named(tmp_path):
    home = Home(tmp_path)
    home.db.write_bytes(b"not a database, but long enough to be looked at " * 50)
    for writer in (False, True):
        with pytest.raises(LunaError, match=r"luna\.db: file is not a database\. The file is damaged"):
            Ledger.open(home, writer=writer)


def test_a_damaged_row_stops_readers_with_advice(home):
    tamper(home, "UPDATE entries SET body = substr(body, 2) WHERE kind = 'generation' AND role = 'logical'")
    with Ledger.open(home) as reader, pytest.raises(LunaError, match=r"generation main G0 logical.*verify"):
        reader.rows()


def test_sha_of_nothing_is_the_known_one():
    assert sha("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
