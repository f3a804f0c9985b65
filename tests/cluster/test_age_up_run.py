"""The age-up on a real Ray cluster: the coordinator collects the lessons, and the inbox is the user's."""

from __future__ import annotations

import signal
import subprocess

import pytest

from curriculum.parquet import read_new_data, write_examples
from jobs.age_up import age_up
from ledger.conversations import Label
from ledger.errors import LunaError
from ledger.store import Ledger
from tests.cluster.builders import even_numbers
from tests.cluster.test_generations import command, lenient, raise_one, tell_coordinator, wait_for_step  # noqa: F401
from tests.cluster.test_talks import WHOLE
from tests.ledger.test_conversations import AT, a_turn

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def collected(home, gen_id):
    with Ledger.open(home) as ledger:
        return read_new_data(home.data_file(ledger.generation(gen_id)[0].collected_sha))


def outputs(new):
    return {example.output for example in (*new.train, *new.holdout)}


def test_an_age_up_ends_an_older_run_first_and_then_asks_for_its_own(lenient, caplog):  # noqa: F811
    home = lenient
    caplog.set_level("INFO", "jobs")
    home.settings_file.write_text(WHOLE)
    with pytest.raises(LunaError, match="nothing to learn from"):
        age_up(home, None, now=True)
    raise_one(home, even_numbers(0, 150))
    sha = write_examples(home.inbox_dir, even_numbers(200, 150))
    run = subprocess.Popen(
        command(home, "generation", "run", "--data", sha, "--steps", "80"), stderr=subprocess.PIPE, text=True
    )
    wait_for_step(2)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=120)
    files = sorted(home.inbox_dir.iterdir())

    tell_coordinator(home, "add_turn", a_turn(1))
    tell_coordinator(home, "add_label", a_turn(1).id, Label(correction="Better.", at=AT))
    told, _ = age_up(home, None, now=True)

    assert told.startswith("G2: ")
    assert any("G1: " in line and "begun earlier, asking again" in line for line in caplog.messages)
    assert "Better." not in outputs(collected(home, 1))
    lessons = collected(home, 2)
    assert {e.output for e in (*lessons.train, *lessons.holdout) if e.id not in lessons.filling} == {"Better."}
    assert sorted(home.inbox_dir.iterdir()) == files, "the age-up neither adds to the inbox nor takes from it"
