"""What all commands have in common, and what single ones promise: exit statuses, what they leave alone and show."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
import zipfile
from types import SimpleNamespace
from typing import ClassVar

import pytest
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

import jobs.chat
from cluster.settings import Settings
from jobs.cli import app
from jobs.context import printable
from jobs.generation.preferences import gather
from jobs.reward.training import rows_of
from jobs.submit.commands import submit_job
from jobs.submit.request import JOBS, entrypoint, job_request, runtime_env
from ledger.errors import LunaError
from ledger.home import Home
from tests.jobs.servers import http, listening
from tests.ledger.builders import add_generation, make_ledger
from tests.repository import ROOT

RUN = CliRunner()


def luna(*arguments, **options):
    return RUN.invoke(app, [*map(str, arguments)], **options)


@pytest.fixture
def home(tmp_path):
    """A home with one generation, without the files of its adapters."""
    with make_ledger(tmp_path / "home") as ledger:
        add_generation(ledger, 0, None)
    place = Home(tmp_path / "home").create()
    place.settings_file.write_text('profile = "tiny"\n')
    return place


def commands(command=None, *words):
    """(words, command) of every command and group."""
    command = command or get_command(app)
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *words, name)


COMMANDS = dict(commands())


# -- in common --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_h_and_help(words):
    short, long = luna(*words, "-h"), luna(*words, "--help")
    assert (short.exit_code, long.exit_code) == (0, 0)
    assert short.output == long.output
    assert "Usage:" in short.output


def test_the_version_is_told():
    done = luna("--version")
    assert done.exit_code == 0
    assert re.fullmatch(r"luna \d+\.\d+\.\d+\S*\n", done.output)


def test_home_and_address_stand_before_the_command_or_after_it(home):
    before, after = luna("--home", home.root, "generation", "list"), luna("generation", "list", "--home", home.root)
    assert before.exit_code == after.exit_code == 0
    assert before.output == after.output
    other = luna("--home", home.root.parent / "elsewhere", "generation", "list", "--home", home.root)
    assert other.output == after.output, "the one after the command is nearer"


def test_the_address_before_the_command_is_the_commands(home, monkeypatch):
    joined = []
    monkeypatch.setattr("cluster.ray_head.connect", lambda address: joined.append(address) or _stop())
    luna("--address", "ray.example:6379", "generation", "abandon", "--home", home.root)
    luna("generation", "abandon", "--address", "ray.example:6379", "--home", home.root)
    assert joined == ["ray.example:6379"] * 2


def _stop():
    raise LunaError("far enough.")


def test_the_exit_statuses_are_told_in_the_help():
    told = " ".join(luna("--help").output.split())
    for status in ("0 done", "1 error", "2 wrong usage", "3 it ran, and the answer is no", "130 interrupted"):
        assert status in told


# -- jobs -------------------------------------------------------------------------------------------------------------


def test_every_job_is_a_command_under_its_own_name():
    for job, words in JOBS.items():
        assert words in COMMANDS
        assert words[0] == job
        assert entrypoint(job, ["--home", "x y"]) == f"python -m jobs.cli {' '.join(words)} --home 'x y'"


def test_a_job_that_does_not_exist_is_wrong_usage_and_the_ones_that_do_are_told():
    for job in ("serve", "age_up", "status", "jobs.cli", "context"):
        done = luna("submit", job)
        assert done.exit_code == 2
        assert f"there is no job '{job}'; use one of {', '.join(JOBS)}." in " ".join(done.stderr.split())


class FakeJobServer:
    """Ray's own client, but for the cluster behind it: how a command ends when the job or the connection does."""

    ended = SimpleNamespace(status="SUCCEEDED", driver_exit_code=0)
    interrupt = False
    log: ClassVar[list[str]] = ["a line\n", "half of", " another\nthe last\n"]
    breaks: ClassVar[list[int]] = []
    """After how many of the log's pieces each connection breaks."""

    def __init__(self, url):
        pass

    def submit_job(self, **job):
        FakeJobServer.job = job
        return job["submission_id"]

    async def tail_job_logs(self, job_id):
        good = self.breaks.pop(0) if self.breaks else None
        for number, piece in enumerate(self.log):
            if number == good:
                raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
            yield piece
        if self.interrupt:
            raise KeyboardInterrupt

    def get_job_logs(self, job_id):
        return "".join(self.log)

    def get_job_info(self, job_id):
        return SimpleNamespace(status="RUNNING") if self.breaks else self.ended


@pytest.fixture
def job_server(monkeypatch):
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", FakeJobServer)
    return FakeJobServer


SERVER = "http://127.0.0.1:1"


@pytest.mark.parametrize(("status", "code", "told"), [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("STOPPED", None, 1)])
def test_submit_ends_as_its_job_ended(home, job_server, monkeypatch, status, code, told):
    monkeypatch.setattr(job_server, "ended", SimpleNamespace(status=status, driver_exit_code=code))
    assert submit_job(job_request("generation", ["--steps", "3"], home), SERVER) == told
    assert job_server.job["entrypoint"] == "python -m jobs.cli generation run --steps 3"


def test_a_log_that_breaks_off_is_taken_up_where_it_was(home, job_server, monkeypatch, capsys):
    monkeypatch.setattr("jobs.submit.server._BETWEEN_TRIES_S", 0.0)
    monkeypatch.setattr(job_server, "breaks", [2, 0, 1, 1])
    assert submit_job(job_request("teach", [], home), SERVER) == 0
    assert capsys.readouterr().out == "".join(job_server.log), "the job ended while the last connection was broken"
    monkeypatch.setattr(job_server, "breaks", [2, 0, 3])
    assert submit_job(job_request("teach", [], home), SERVER) == 0
    assert capsys.readouterr().out == "".join(job_server.log)


def test_a_job_server_that_stays_away_is_told_with_the_way_back(home, job_server, monkeypatch):
    def away(*_):
        raise ConnectionError("refused")

    monkeypatch.setattr("jobs.submit.server._BETWEEN_TRIES_S", 0.0)
    monkeypatch.setattr("jobs.submit.server._LOST_FOR_S", 0.0)
    monkeypatch.setattr(job_server, "get_job_info", away)
    done = luna("submit", "teach", "--submission-id", "mine", "--address", SERVER, "--home", home.root)
    assert done.exit_code == 1
    assert f"Come back with `luna jobs logs --address {SERVER} mine`" in " ".join(done.stderr.split())


def test_without_waiting_the_id_is_the_answer(home, job_server):
    done = luna("submit", "generation", "--no-wait", "--address", SERVER, "--home", home.root)
    assert done.exit_code == 0
    assert re.fullmatch(r"luna-generation-main-g1-[0-9a-f]{8}\n", done.stdout)
    assert job_server.job["submission_id"] == done.stdout.strip()


def test_a_job_says_whose_it_is_in_strings(home):
    told = job_request("generation", [], home).metadata
    assert told.pop("luna")
    assert told == {
        "job": "generation", "home": str(home.root), "role": "creative+logical+dialectical", "lineage": "main",
        "generation": "G1",
    }  # fmt: skip
    assert job_request("reproduce", ["g0"], home).metadata["generation"] == "G0"
    assert job_request("teach", ["pairs", "--role", "logical"], home).metadata["role"] == "logical"
    elsewhere = job_request("generation", [], Home(home.root.parent / "on-the-cluster"))
    assert "lineage" not in elsewhere.metadata
    assert elsewhere.submission_id.startswith("luna-generation-")


@pytest.mark.parametrize("name", ["", "a/b", "../x", "-x", "x" * 101, "a b"])
def test_what_cannot_be_an_id_is_wrong_usage(home, name):
    done = luna("submit", "teach", "--submission-id", name, "--address", SERVER, "--home", home.root)
    assert done.exit_code == 2
    assert "cannot be a job's id" in done.stderr


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(home, job_server, monkeypatch):
    monkeypatch.setattr(job_server, "interrupt", True)
    done = luna("submit", "teach", "--submission-id", "mine", "--address", SERVER, "--home", home.root)
    assert done.exit_code == 130
    told = " ".join(done.stderr.split())
    assert f"luna jobs logs --address {SERVER} mine" in told
    assert f"luna jobs stop --address {SERVER} mine" in told


def test_a_job_takes_the_checkout_along_without_its_home(tmp_path):
    home = Home(tmp_path / "home")
    assert "working_dir" not in runtime_env(home, tmp_path), "an installed Luna has no checkout"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\n')
    assert "working_dir" not in runtime_env(home, tmp_path), "packages of others leave such a file, too"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "luna"\n')
    assert runtime_env(home, tmp_path)["working_dir"] == str(tmp_path)
    assert runtime_env(home, tmp_path)["excludes"] == ["/home"]


def packed(root, excludes):
    """What Ray itself puts into a job's package."""
    from ray._private.runtime_env.packaging import create_package

    create_package(str(root), root.parent / "package.zip", include_gitignore=True, excludes=excludes)
    return zipfile.ZipFile(root.parent / "package.zip").namelist()


def test_a_jobs_package_holds_the_program_and_no_home_under_any_name(home, tmp_path):
    clone = tmp_path / "clone"
    for name in (".rayignore", "pyproject.toml"):
        (clone / name).parent.mkdir(exist_ok=True)
        (clone / name).write_bytes((ROOT / name).read_bytes())
    packages = ("cluster", "configs", "curriculum", "jobs", "ledger", "serving", "trainers")
    for folder in packages:
        (clone / folder / "inner").mkdir(parents=True)
        (clone / folder / "inner" / "code.py").touch()
    secrets = []
    for name in ("my-luna", "jobs/home [of] mine!", "trainers/#1", "data"):
        for file in ("models/base/abc/model.safetensors", "data/inbox/talk.parquet", "luna.toml", "luna.db"):
            (clone / name / file).parent.mkdir(parents=True, exist_ok=True)
            (clone / name / file).touch()
            secrets.append(f"{name}/{file}")
    names = packed(clone, runtime_env(home, clone)["excludes"])
    assert not set(names) & set(secrets)
    assert {f"{folder}/inner/code.py" for folder in packages} <= set(names)
    assert not [name for name in packed(clone, []) if name.startswith(("my-luna", "data"))], "by ray job submit, too"


def test_a_jobs_package_takes_every_package_of_the_program_along():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    taken = {line.strip("!/") for line in (ROOT / ".rayignore").read_text().splitlines() if line.startswith("!")}
    assert {pattern.rstrip("*").rstrip(".") for pattern in listed} <= taken


@pytest.mark.parametrize("words", [["status"], ["rollback", "G0"], ["serve"], ["serve", "--stop"]])
def test_the_address_of_a_job_server_is_explained(home, monkeypatch, words):
    """As Ray's own manual sets it for `ray job submit`."""
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    monkeypatch.setattr("cluster.ray_head._ray_lives", lambda: True)
    done = luna(*words, "--home", home.root)
    assert done.exit_code == 1
    assert "RAY_ADDRESS is http://127.0.0.1:8265, a job server, which only `luna submit` can use" in done.stderr


@pytest.mark.parametrize(
    ("reply", "told"),
    [(http(b"<html>hello</html>"), "did not take"), (http({"ray": 1}), "did not take"), (http({}, "500 No"), "did not"),
     (http({"ray_version": "many"}), "did not take"), (b"", "did not take"), (http(b"", "302 Found"), "did not take")],
)  # fmt: skip
def test_what_is_no_job_server_is_told_so(home, reply, told):
    with listening(reply) as (port, _), pytest.raises(LunaError, match=told):
        submit_job(job_request("demo", [], home), f"http://127.0.0.1:{port}")


# -- 3: it ran, and the answer is no ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("verdict", "status"), [("accepted", 0), ("rejected", 3)])
def test_a_rejected_generation_ends_with_3(home, monkeypatch, verdict, status):
    result = {"gen_id": 0, "verdict": verdict, "reason": "as measured", "resumed": False}
    monkeypatch.setattr("jobs.generation.run.raise_generation", lambda *_, **__: result)
    assert luna("generation", "run", "--home", home.root).exit_code == status
    monkeypatch.setattr("jobs.age_up.lessons_due", lambda *_: ("age-up", ["a lesson"]))
    assert luna("age-up", "--home", home.root).exit_code == status


def test_data_that_is_named_is_learned_alone_and_conversations_wait(home, monkeypatch):
    asked = []

    def raised(home, address, data, overrides, **_):
        asked.append((data, overrides))
        return {"gen_id": 0, "verdict": "accepted", "resumed": False}

    monkeypatch.setattr("jobs.generation.run.raise_generation", raised)
    assert luna("generation", "run", "--home", home.root).exit_code == 0
    assert luna("generation", "run", "--data", "a" * 64, "--home", home.root).exit_code == 0
    assert asked == [(None, {}), (("a" * 64,), {"data": {"conversations": False}})]


@pytest.mark.parametrize(("found", "status"), [("a" * 64, 0), ("b" * 64, 3)])
def test_other_bytes_end_with_3(home, monkeypatch, found, status):
    monkeypatch.setattr("jobs.generation.reproduce.reproduce", lambda *_: {"creative": ("a" * 64, found)})
    assert luna("reproduce", "G0", "--home", home.root).exit_code == status


@pytest.mark.parametrize(("verdict", "status"), [("same", 0), ("broken", 3)])
def test_a_broken_prompt_ends_with_3(home, monkeypatch, verdict, status):
    outcome = {
        "id": "grief", "role": "creative", "answer": "x", "before": None, "verdict": verdict, "problems": [],
        "problems_before": [],
    }  # fmt: skip
    found = {"gen_id": 0, "against": None, "outcomes": [outcome], "rewards": {}}
    monkeypatch.setattr("jobs.generation.regress.regress", lambda *_: found)
    assert luna("regress", "G0", "--home", home.root).exit_code == status


def test_a_record_with_problems_ends_with_3(home):
    done = luna("ledger", "verify", "--home", home.root)
    assert done.exit_code == 3, "the adapters of this home are missing"
    assert "problems" in done.output


# -- what is left alone -----------------------------------------------------------------------------------------------


def contents(home):
    files = [path for path in home.root.rglob("*") if path.is_file() and not path.name.startswith("luna.db-")]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_init_on_an_existing_home_changes_nothing_and_says_what_is_there(home, monkeypatch):
    monkeypatch.setattr("cluster.ray_head.connect", lambda *_: pytest.fail("nothing to do for Ray"))
    home.base_dir("ba5e").mkdir(parents=True)
    monkeypatch.setattr("trainers.models.frozen.prepare_base", lambda *_: None)
    before = contents(home)
    done = luna("init", "--home", home.root)
    assert done.exit_code == 0, done.output
    told = " ".join(done.output.split())
    assert "profile tiny, current lineage main, head G0" in told
    assert "luna init --lineage NAME begins another" in told
    assert contents(home) == before
    refused = luna("init", "--profile", "smol", "--home", home.root)
    assert refused.exit_code == 1
    assert "a home of profile 'tiny' already" in " ".join(refused.output.split())


def fake_head(monkeypatch, head, running):
    stopped = []
    monkeypatch.setattr("cluster.ray_head.head_to_stop", lambda: head, raising=False)
    monkeypatch.setattr("cluster.ray_head.stop", stopped.append, raising=False)
    monkeypatch.setattr("jobs.down._running_generation", lambda address: running)
    return stopped


def test_down_asks_while_a_generation_runs(monkeypatch):
    head = SimpleNamespace(address="127.0.0.1:6379")
    stopped = fake_head(monkeypatch, head, "G3 of /somewhere")
    asked = luna("down", input="n\n")
    assert (asked.exit_code, stopped) == (1, [])
    assert "G3 of /somewhere is being raised" in asked.output
    assert luna("down", input="y\n").exit_code == 0
    assert luna("down", "-y").exit_code == 0
    assert stopped == [head, head]


def test_down_without_a_ray_stops_nothing(monkeypatch):
    stopped = fake_head(monkeypatch, None, "")
    done = luna("down")
    assert (done.exit_code, stopped) == (0, [])
    assert "Ray was not running" in done.output


# -- data -------------------------------------------------------------------------------------------------------------


def test_an_import_for_all_roles_tells_each_problem_once_and_counts_once(home, tmp_path):
    named = [{"role": "creative", "input": f"question {n}", "output": f"answer {n}"} for n in range(3)]
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join([*map(json.dumps, named), "no JSON"]))
    done = luna("curriculum", "import", file, "--role", "all", "--home", home.root)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("skipped:") == 1
    assert "3 examples in the inbox" in done.stderr


def test_an_empty_file_of_labels_blocks_nothing_but_a_training_without_labels(home):
    """A request that failed before the first label leaves one."""
    folder = home.data_dir / "teacher" / "seed"
    folder.mkdir(parents=True)
    (folder / "labels.jsonl").touch()
    settings = Settings.model_validate({"channels": {"mode": "dual"}})
    assert gather(home, settings, []) == []
    with pytest.raises(LunaError, match="no usable label"):
        rows_of(home, settings, None, None)
    assert "has no label yet" in luna("teach", "sample", "--home", home.root).output


# -- talking ----------------------------------------------------------------------------------------------------------


def talk(monkeypatch, home, events, lines):
    """What `luna chat` shows for these lines, where each answer is `events()`."""
    monkeypatch.setattr(jobs.chat, "events", lambda *_: events())
    said = iter(lines)
    with (home.root / "shown.txt").open("w+") as file:
        jobs.chat.chat(home, "logical", 10, Console(file=file, width=200), lambda: next(said))
        file.seek(0)
        return file.read()


def test_ctrl_c_stops_the_answer_and_not_the_talk(home, monkeypatch):
    answers = iter([["To"], ["Two"]])

    def events():
        (text,) = next(answers)
        yield "token", {"text": text}
        if text == "To":
            raise KeyboardInterrupt
        yield "turn", {"conversation": "c", "id": "t"}

    shown = talk(monkeypatch, home, events, ["one?", "two?", "/quit"])
    assert re.search(r"To\s+stopped\s+Two", shown)


def test_control_characters_of_an_answer_do_not_reach_the_terminal_of_a_talk(home, monkeypatch):
    def events():
        yield "token", {"text": "\x1b]0;owned\x07\x1b[2Jgone 👩‍💻"}
        yield "turn", {"conversation": "c", "id": "t"}

    shown = talk(monkeypatch, home, events, ["?", "/quit"])
    assert "gone 👩‍💻" in shown
    assert not set(shown) & {"\x1b", "\x07"}


def test_printable_keeps_lines_and_scripts_and_drops_what_moves_the_cursor():
    assert printable("a\tb\nc ∧ ünd 日本 👩‍💻") == "a\tb\nc ∧ ünd 日本 👩‍💻"
    assert printable("a\rb\x9b2Jc\u202ed") == "a?b?2Jc?d"
