"""What a bench reads of the generations that it had raised."""

from __future__ import annotations

import pytest

import bench.report
from bench.courses.learning import trained_by_generation
from bench.verdict_deltas import _copy_home, keep_table
from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import ROLES
from tests.ledger.builders import make_full_home


def test_a_lesson_goes_on_with_the_heads_adapters(tmp_path) -> None:
    home = make_full_home(tmp_path / "home", generations=2)
    second = trained_by_generation(home, 2, "a lesson", 7.0)
    assert set(second.shas) == set(ROLES)
    assert (second.verdict, second.cpu_s, second.rows) == ("accepted", 7.0, 600)
    assert second.train_cpu_s == pytest.approx(1.5 * 60 * 2)
    with pytest.raises(LunaError, match="run the bench again"):
        trained_by_generation(home, 3, "another", 0.0)


def test_a_copied_home_has_the_verdict_and_stands_in_the_table(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bench.report, "RESULTS", tmp_path)
    source = make_full_home(tmp_path / "g0", generations=2)
    _copy_home(source, Home(tmp_path / "plans"))
    _copy_home(make_full_home(tmp_path / "first", generations=1), Home(tmp_path / "flipped"))
    text = keep_table(tmp_path).read_text()
    assert "| plans | honest |" in " ".join(text.split())
    assert "flipped" not in text
    assert "honest deltas accepted: 1 of 1; bad ones rejected: 0 of 0" in text
