"""What a bench keeps, and what is read back of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import report


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "machine_line", lambda: "a processor, 2 threads")
    return tmp_path


def test_a_kept_result_says_where_it_comes_from(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "commit_line", lambda: "0123456789 with local changes")
    monkeypatch.setattr(report, "command_line", lambda: "python -m bench.train --rounds 2")
    kept = report.keep("train", "Training", ("variant", "speed"), [("fused", "9")], ["one run"])
    read = report.read_result(kept.read_text())
    assert (read.title, read.machine) == ("Training", "a processor, 2 threads")
    assert (read.commit, read.command) == ("0123456789 with local changes", "python -m bench.train --rounds 2")
    assert read.body.splitlines()[-1] == "- one run"
    page = report.measurements_page(results)
    assert "| [Training](#training) |" in page
    assert "`python -m bench.train --rounds 2`" in page


def test_what_a_file_does_not_state_is_not_invented() -> None:
    read = report.read_result("# Old\n\n| a |\n|---|\n| 1 |\n")
    assert (read.date, read.machine, read.commit, read.command) == ("not recorded",) * 4


def test_a_command_names_no_folder_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "/srv/labels.jsonl", "--splits", "10"])
    assert report.command_line().endswith(" labels.jsonl --splits 10")
