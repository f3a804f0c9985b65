"""`luna ledger`: what it prints and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.ledger import app
from ledger.home import Home
from tests.ledger.builders import add_generation, make_ledger, sha


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home whose lineage `main` has 25 generations, and another one generation."""
    with make_ledger(tmp_path) as ledger:
        ledger.create_lineage("second", sha("base"))
        add_generation(ledger, 0, None, lineage="second")
        ledger.create_lineage("main", sha("base"))
        for gen_id in range(25):
            add_generation(ledger, gen_id, gen_id - 1 if gen_id else None)
    return Home(tmp_path)


def luna(home: Home, *arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments, "--home", str(home.root)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_show_prints_the_newest_generations_as_the_csv_has_them(home):
    header, *lines = home.csv.read_text().splitlines(keepends=True)
    assert luna(home, "show") == header + "".join(lines[-60:])
    assert luna(home, "show", "--last", "2") == header + "".join(lines[-6:])
    assert luna(home, "show", "--all") == header + "".join(lines)
    assert [row["gen_id"] for row in json.loads(luna(home, "show", "--last", "1", "--json"))] == [24] * 3


def test_export_writes_the_csv_from_the_chain_whatever_became_of_the_file(home, tmp_path):
    text = home.csv.read_text()
    home.csv.write_text("edited")
    luna(home, "export", str(tmp_path / "out.csv"))
    assert (tmp_path / "out.csv").read_text() == text
    luna(home, "export", str(tmp_path / "out.json"))
    content = json.loads((tmp_path / "out.json").read_text())
    assert {row["lineage"] for row in content["rows"]} == {"main"}
    assert len(content["rows"]) == 75
