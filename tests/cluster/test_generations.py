"""Generations on a real Ray cluster with a real, tiny model: judged, recorded, reproduced, and killed in the middle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from curriculum.parquet import write_examples
from curriculum.preferences.pairs import read_preference_set
from ledger.conversations import Label
from ledger.errors import LunaError
from ledger.home import Home
from ledger.store import Ledger, Stores
from ledger.verification.ledger import verify
from tests.cluster.builders import even_numbers
from tests.ledger.test_conversations import AT, a_turn
from tests.ledger.test_growth import a_score
from tests.processes import ray_processes

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LENIENT = """
profile = "tiny"
[train]
steps = 12
checkpoint_every_steps = 4
[data]
fill = false
[eval]
items = 60
agl_items = 14
extra_items = 0
probe_tokens = 8
everyday_items = 0
[gates]
min_items = 10
recall_min = 0.0
generalization_min = 0.0
closed_mastered = 0.0
significance = 1e-9
bound_min = 0.0
"""
"""Bounds low enough for a model of random weights: these tests are about the flow, not about what is learned."""


def make_home(tmp_path, text=LENIENT):
    from jobs.home import make_home as make

    home = Home(tmp_path / "home").create()
    home.settings_file.write_text(text)
    make(home, "tiny", None)
    return home


def raise_one(home, examples, **overrides):
    from jobs.generation.run import raise_generation

    return raise_generation(home, None, (write_examples(home.inbox_dir, examples),), overrides)


@pytest.fixture
def lenient(ray_head, tmp_path):
    home = make_home(tmp_path)
    home.settings_file.write_text(LENIENT.replace("recall_min = 0.0", "recall_min = 0.0"))
    return home


@pytest.fixture(scope="module")
def unbroken(ray_head, tmp_path_factory):
    """The adapters of 80 steps on 150 even numbers, trained without a break."""
    home = make_home(tmp_path_factory.mktemp("unbroken"))
    raise_one(home, even_numbers(0, 150), train={"steps": 80})
    return adapters(home, 0)


def command(home, *arguments):
    return [sys.executable, "-m", "jobs.cli", *arguments, "--home", str(home.root)]


def coordinator_state():
    import ray

    from cluster.client.coordinator import find_coordinator
    from cluster.ray_head import connect

    connect()
    coordinator = find_coordinator()
    assert coordinator is not None
    try:
        return ray.get(coordinator.state.remote(), timeout=30)
    except ray.exceptions.RayActorError:
        return None


def wait_for_step(number, timeout_s=180):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        state = coordinator_state()
        if state and state.progress and state.progress.step >= number:
            return state
        time.sleep(0.1)
    raise AssertionError(f"step {number} was not reached")


def wait_until_judged(home, gen_id, timeout_s=180):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with Stores.open(home) as stores:
            lineage = stores.ledger.current_lineage()
            if stores.ledger.is_judged(gen_id) and stores.journal.open_run(lineage) is None:
                return
        time.sleep(0.3)
    raise AssertionError(f"G{gen_id} was not judged")


def adapters(home, gen_id):
    with Ledger.open(home) as ledger:
        return {row.role: row.child_sha for row in ledger.generation(gen_id)}


def test_two_generations_are_judged_recorded_and_reproduced(lenient):
    from jobs.generation.reproduce import reproduce

    home = lenient
    first = raise_one(home, even_numbers(0, 150))
    second = raise_one(home, even_numbers(1000, 150))
    assert (first["gen_id"], first["verdict"], second["gen_id"], second["verdict"]) == (0, "accepted", 1, "accepted")
    with Ledger.open(home) as ledger:
        assert (ledger.head(), ledger.age()) == (1, 1)
        parents = {row.role: row for row in ledger.generation(0)}
        for row in ledger.generation(1):
            assert row.parent_sha == parents[row.role].child_sha
            assert (row.n_delta, row.n_replay) == (48, 48)
            assert row.eval_recall is not None
    assert verify(home) == []
    for sha in adapters(home, 1).values():
        file = home.adapter_dir(sha) / "adapter_model.safetensors"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == sha
        assert json.loads((home.adapter_dir(sha) / "METADATA.json").read_text())["generation"] == 1
    assert len(list(home.adapters_dir.iterdir())) == 6
    lost = home.adapter_dir(adapters(home, 1)["creative"])
    shutil.rmtree(lost)
    for recorded, found in reproduce(home, 1).values():
        assert recorded == found
    assert (lost / "adapter_model.safetensors").exists(), "a lost adapter comes back by training it again"
    assert len(list(home.adapters_dir.iterdir())) == 6
    assert not list(home.runs_dir.rglob("checkpoint-*"))
    assert list(home.runs_dir.rglob("events.out.tfevents*"))


def test_a_generation_with_two_channels_is_recorded_measured_and_reproduced(lenient, tmp_path):
    """Pairs of a file, of rule-made labels in the home, and of a correction; by the command, as a user would."""
    from jobs.generation.reproduce import reproduce
    from tests.ledger.test_conversations import AT, a_turn

    home = lenient
    write_examples(home.inbox_dir, even_numbers(0, 150))
    run_of(home, "teach", "label", "--teacher", "rules", "--limit", "40")
    pairs = tmp_path / "pairs.jsonl"
    lines = [{"prompt": f"{i} odd?", "chosen": "⊥", "rejected": "certainly"} for i in range(40)]
    pairs.write_text("\n".join(map(json.dumps, lines)))
    tell_coordinator(home, "add_turn", a_turn(1))
    tell_coordinator(home, "add_label", a_turn(1).id, Label(correction="a better answer", at=AT))
    run_of(home, "generation", "run", "--channels", "dual", "--preferences", str(pairs))
    with Ledger.open(home) as ledger:
        rows, evals = ledger.generation(0), ledger.evals(0)
    train, held_out = (read_preference_set(home.data_file(sha)) for sha in (rows[0].pref_sha, rows[0].pref_holdout_sha))
    assert {pair.origin for pair in train} == {"imported", "rules", "correction"}
    assert not {pair.prompt for pair in train} & {pair.prompt for pair in held_out}
    measured = {score.role: score for score in evals if score.eval == "preference_accuracy"}
    for row in rows:
        assert measured[row.role].n == sum(pair.role == row.role and pair.weight > 0 for pair in held_out)
        assert measured[row.role].method == "pairs"
    assert verify(home) == []
    for recorded, found in reproduce(home, 0).values():
        assert recorded == found
    curves = "".join(path.read_bytes().decode(errors="ignore") for path in home.runs_dir.rglob("events.out.tfevents*"))
    assert "train/logical/dpo_loss" in curves


def run_of(home, *arguments):
    """The command in this process, which saves its start."""
    from typer.testing import CliRunner

    from jobs.cli import app

    done = CliRunner().invoke(app, [*arguments, "--home", str(home.root)])
    assert done.exit_code == 0, done.output


def tell_coordinator(home, method, *arguments):
    from cluster.client.coordinator import ask, coordinator_for
    from cluster.ray_head import connect

    connect()
    ask(coordinator_for(home), method, *arguments)


def test_a_rejected_generation_leaves_the_head_where_it_was(lenient):
    home = lenient
    raise_one(home, even_numbers(0, 150))
    rejected = raise_one(home, even_numbers(1000, 150), gates={"generalization_min": 1.0}, blends={"enabled": False})
    assert rejected["verdict"] == "rejected"
    assert "generalization" in rejected["reason"]
    with Ledger.open(home) as ledger:
        assert ledger.head() == 0
        assert len(ledger.rows()) == 6
    later = raise_one(home, even_numbers(1000, 150))
    with Ledger.open(home) as ledger:
        assert ledger.generation(later["gen_id"])[0].parent_gen == 0
    assert verify(home) == []


def test_the_trl_engine_goes_on_after_the_kill_of_its_trainer(lenient):
    import threading

    home, killed = lenient, []

    def kill_the_trainer():
        deadline = time.monotonic() + 150
        while not killed and time.monotonic() < deadline:
            for process in trainers():
                if _has_checkpoint(home):
                    process.kill()
                    killed.append(process.pid)
                    return
            time.sleep(0.2)

    threading.Thread(target=kill_the_trainer, daemon=True).start()
    result = raise_one(home, even_numbers(0, 150), train={"engine": "trl", "steps": 6, "checkpoint_every_steps": 2})
    assert killed, "the trainer was seen training and was killed"
    assert result["verdict"] == "accepted"
    with Ledger.open(home) as ledger:
        rows = ledger.generation(0)
        assert {row.engine for row in rows} == {"trl"}
    assert verify(home) == []


def _has_checkpoint(home):
    return any(home.root.glob("runs/**/checkpoint-*"))


def test_before_a_rejection_blends_of_parent_and_child_are_tried(lenient):
    home = lenient
    raise_one(home, even_numbers(0, 150))
    result = raise_one(home, even_numbers(1000, 150), gates={"generalization_min": 1.0})
    assert result["verdict"] == "rejected"
    lines = coordinator_state().lines
    assert [alpha for alpha in ("0.75", "0.5", "0.25") if any(f"parent + {alpha} " in line for line in lines)] == [
        "0.75",
        "0.5",
        "0.25",
    ]
    assert len(list(home.adapters_dir.iterdir())) == 6, "blends that failed are not kept"


def test_bad_data_is_refused_before_anything_is_recorded(lenient):
    home = lenient
    from jobs.generation.run import raise_generation

    with pytest.raises(LunaError, match="inbox is empty"):
        raise_generation(home, None)
    with pytest.raises(LunaError, match=r"holdout of creative would have \d examples .* at least 10"):
        raise_one(home, even_numbers(0, 20))
    raise_one(home, even_numbers(0, 150), train={"steps": 20})  # room for all that is not held out
    with pytest.raises(LunaError, match="no new examples for creative"):
        raise_one(home, even_numbers(0, 150))
    with pytest.raises(LunaError, match=r"alpha 32.*the settings say alpha 64.*set \[lora\] alpha = 32"):
        raise_one(home, even_numbers(1000, 150), lora={"alpha": 64})
    with Ledger.open(home) as ledger:
        assert ledger.next_gen_id() == 1


def test_a_second_generation_at_the_same_time_is_refused_by_name(lenient):
    home = lenient
    sha = write_examples(home.inbox_dir, even_numbers(0, 150))
    first = subprocess.Popen(
        command(home, "generation", "run", "--steps", "200"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_step(2)
    from jobs.generation.run import raise_generation

    with pytest.raises(LunaError, match="G0 is being raised in run main-g0"):
        raise_generation(home, None, (sha,))
    from jobs.home import make_home as make

    with pytest.raises(LunaError, match="before you switch lineages"):
        make(home, "tiny", None, "another")
    make(home, "tiny", None)  # the current one: nothing to switch
    first.send_signal(signal.SIGINT)
    _, chatter = first.communicate(timeout=120)
    assert first.returncode == 1
    assert "the next run goes on there" in chatter.replace("\n", " ")
    state = coordinator_state()
    assert not state.running


def test_ctrl_c_stops_at_a_checkpoint_and_the_next_run_equals_an_unbroken_one(lenient, unbroken):
    home = lenient
    write_examples(home.inbox_dir, even_numbers(0, 150))
    run = subprocess.Popen(command(home, "generation", "run", "--steps", "80"), stderr=subprocess.PIPE, text=True)
    wait_for_step(5)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=120)
    from jobs.generation.run import raise_generation

    resumed = raise_generation(home, None)
    assert resumed["resumed"]
    assert adapters(home, 0) == unbroken


def test_commands_around_a_paused_run_name_it_and_what_to_do(lenient):
    home = lenient
    raise_one(home, even_numbers(0, 150))
    write_examples(home.inbox_dir, even_numbers(1000, 150))
    run = subprocess.Popen(command(home, "generation", "run", "--steps", "80"), stderr=subprocess.PIPE, text=True)
    wait_for_step(2)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=120)
    os.kill(coordinator_state().pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (state := coordinator_state()) is None and time.monotonic() < deadline:
        time.sleep(0.5)
    assert state is not None
    assert not state.running, "a paused run waits for its user, also when the coordinator is started again"
    named = r"G1 is paused at train in run main-g1-\w+: resume it .* or give it up \(`luna generation abandon`\)"
    with pytest.raises(LunaError, match=f"{named} before you move the head"):
        tell_coordinator(home, "rollback", 0)
    with pytest.raises(LunaError, match=f"{named} before you switch lineages"):
        tell_coordinator(home, "create_lineage", "another", "a" * 64)
    tell_coordinator(home, "release")  # a paused run needs no device: they may be wanted for something else
    settings = home.settings_file.read_text()
    home.settings_file.write_text("[karma\n")
    tell_coordinator(home, "add_turn", a_turn(1))
    tell_coordinator(home, "add_label", a_turn(1).id, Label(valence=2, at=AT))
    home.settings_file.write_text(settings)
    with Stores.open(home) as stores:
        assert stores.conversations.labelled_turns()[0].label.valence == 2, "kept, whatever luna.toml says"
        (abandoned,) = (run.run_id for run in stores.journal.open_runs())
    run_of(home, "generation", "abandon")
    with pytest.raises(LunaError, match="no interrupted run to abandon in lineage 'main'"):
        tell_coordinator(home, "abandon")
    tell_coordinator(home, "rollback", 0)
    with Stores.open(home) as stores:
        assert {run.run_id: run.state for run in stores.journal.runs()}[abandoned] == "abandoned"


def test_a_coordinator_that_hangs_or_dies_over_a_question_is_told_in_a_sentence(lenient):
    import threading

    from cluster.client.coordinator import ask, coordinator_for

    actor = coordinator_for(lenient)
    pid = ask(actor, "state").pid
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(LunaError, match="does not answer within 2 s"):
            ask(actor, "home", timeout_s=2)
        threading.Timer(1, os.kill, (pid, signal.SIGKILL)).start()
        with pytest.raises(LunaError, match="ended before it answered"):
            ask(actor, "home")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_a_coordinator_that_was_killed_a_moment_ago_stands_in_no_other_homes_way(lenient, tmp_path):
    from cluster.client.coordinator import ask, coordinator_for

    os.kill(ask(coordinator_for(lenient), "state").pid, signal.SIGKILL)
    (tmp_path / "other").mkdir()
    other = make_home(tmp_path / "other")
    assert ask(coordinator_for(other), "home") == str(other.root.resolve())


def test_a_step_that_kills_the_coordinator_is_given_up_after_three_tries(lenient):
    """As a reward model that is too large for the machine would; no checkpoint is reached in between."""
    home = lenient
    home.settings_file.write_text(LENIENT.replace("checkpoint_every_steps = 4", "checkpoint_every_steps = 1000"))
    write_examples(home.inbox_dir, even_numbers(0, 150))
    driver = subprocess.Popen(command(home, "generation", "run", "--steps", "400"), stderr=subprocess.PIPE, text=True)
    killed, deadline = set(), time.monotonic() + 200
    while driver.poll() is None and time.monotonic() < deadline:
        state = coordinator_state()
        if state and state.running and state.step == "train" and state.pid not in killed:
            os.kill(state.pid, signal.SIGKILL)
            killed.add(state.pid)
        time.sleep(0.2)
    _, chatter = driver.communicate(timeout=60)
    assert (len(killed), driver.returncode) == (3, 1), chatter
    told = " ".join(chatter.split())
    assert "train was begun 3 times and never came to an end, so it is given up" in told
    assert "its process was killed" in told
    with Stores.open(home) as stores:
        (run,) = stores.journal.runs()
        assert (run.state, stores.ledger.head()) == ("failed", None)
        assert "train was begun 3 times" in run.message
    from jobs.generation.run import raise_generation

    assert raise_generation(home, None)["gen_id"] == 1, "the home is as it was, and takes the next one"


@pytest.mark.parametrize("victim", ["trainer", "coordinator", "driver"])
def test_kill_nine_in_the_middle_of_training_loses_nothing(lenient, unbroken, victim):
    home = lenient
    write_examples(home.inbox_dir, even_numbers(0, 150))
    driver = subprocess.Popen(command(home, "generation", "run", "--steps", "80"), stderr=subprocess.PIPE, text=True)
    state = wait_for_step(10)
    if victim == "driver":
        driver.kill()
    else:
        os.kill(state.pid if victim == "coordinator" else _trainer_pid(state), signal.SIGKILL)
    _, chatter = driver.communicate(timeout=300)
    wait_until_judged(home, 0)
    if victim != "driver":
        assert driver.returncode == 0, chatter
        assert "again" in chatter or "back" in chatter
    assert verify(home) == []
    assert adapters(home, 0) == unbroken


def _trainer_pid(state):
    """The newest process of this test's cluster that calls itself a TrainerActor."""
    found = [process.pid for process in trainers()]
    assert found
    return max(found)


def trainers():
    found = []
    for process in ray_processes(os.environ["RAY_ADDRESS"]):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "TrainerActor" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_a_full_disk_is_named_and_the_run_resumes_when_there_is_room(lenient):
    """The coordinator and the trainer run under a small file-size limit, which fails writes as a full disk does."""
    import resource

    import ray

    home = lenient
    write_examples(home.inbox_dir, even_numbers(0, 150))
    from cluster.client.coordinator import coordinator_for
    from jobs.generation.run import raise_generation

    pid = ray.get(coordinator_for(home).state.remote()).pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    try:
        with pytest.raises(LunaError, match=r"could not|disk|too large|write"):
            raise_generation(home, None)
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert raise_generation(home, None)["verdict"] == "accepted"
    assert verify(home) == []


def test_rollback_moves_the_head_and_the_next_child_descends_from_there(lenient):
    home = lenient
    raise_one(home, even_numbers(0, 150))
    raise_one(home, even_numbers(1000, 150))
    done = subprocess.run(command(home, "rollback", "G0"), capture_output=True, text=True, check=False)
    assert "G1 → G0" in done.stdout, done.stderr
    third = raise_one(home, even_numbers(2000, 150))
    with Ledger.open(home) as ledger:
        assert ledger.generation(third["gen_id"])[0].parent_gen == 0
        assert ledger.head() == 2
        assert ledger.age() == 1
    assert verify(home) == []


def test_the_base_stays_warm_between_generations(lenient):
    """The second generation's first step comes from the same process, which has the base loaded."""
    home = lenient
    raise_one(home, even_numbers(0, 150))
    before = _trainer_pid(None)
    raise_one(home, even_numbers(1000, 150))
    assert _trainer_pid(None) == before


def test_status_show_list_and_export_speak_json(lenient, tmp_path):
    home = lenient
    raise_one(home, even_numbers(0, 150))

    def ask(*arguments):
        done = subprocess.run(command(home, *arguments, "--json"), capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    status = ask("status")
    assert (status["head"], status["age"], status["open_run"]) == (0, 0, None)
    assert status["karma"] == {"earned": 0.0, "threshold": 100, "progress": 0.0, "due": False}
    assert len(ask("generation", "list")[0]) == 3
    assert {score["eval"] for score in ask("generation", "show", "G0")["evals"]} >= {
        "recall",
        "generalization",
        "style_drift",
    }
    assert ask("ledger", "verify") == []
    assert len(ask("ledger", "show")) == 3
    target = tmp_path / "out.csv"
    subprocess.run(command(home, "ledger", "export", str(target)), check=True, capture_output=True)
    assert target.read_text().startswith("GEN_ID,parent_sha,child_sha,data_delta_sha,steps,lr,walltime_min,loss_start")
    turn = a_turn()
    tell_coordinator(home, "add_turn", turn)
    tell_coordinator(home, "add_scores", [a_score(turn)])
    tell_coordinator(home, "add_label", turn.id, Label(valence=2, correction="Not at all.", at=AT))
    status = ask("status")
    new = status["cadence"]
    assert (new["conversation_pairs"], new["preference_pairs"], new["due"]) == (1, 1, False)
    tell_coordinator(home, "tell_karma")
    for sha in adapters(home, 0).values():
        metadata = json.loads((home.adapter_dir(sha) / "METADATA.json").read_text())
        assert metadata["karma"]["earned"] == status["karma"]["earned"] > 1
    assert verify(home) == []


def test_a_flipped_byte_in_an_adapter_is_found_and_named_by_the_command(lenient):
    home = lenient
    raise_one(home, even_numbers(0, 150))
    sha = adapters(home, 0)["logical"]
    file = home.adapter_dir(sha) / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    done = subprocess.run(command(home, "ledger", "verify"), capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert sha[:12] in done.stdout
    assert "logical" in done.stdout


def test_a_submitted_job_makes_its_home_and_streams_its_log(ray_head, tmp_path):
    from jobs.submit.commands import submit_job
    from jobs.submit.request import job_request

    home = Home(tmp_path / "submitted").create()
    home.settings_file.write_text(LENIENT)
    from jobs.home import make_home as make

    make(home, "tiny", None)
    assert submit_job(job_request("generation", ["--total", "600", "--steps", "4"], home), None) == 0
    with Ledger.open(home) as ledger:
        assert len(ledger.rows()) == 3


def test_an_unknown_job_is_refused_with_the_known_ones(ray_head, tmp_path):
    from jobs.submit.request import job_request

    with pytest.raises(LunaError, match="generation"):
        job_request("no_such_job", [], Home(Path(tmp_path)))
