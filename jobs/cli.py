"""The command `luna`. Each command is a few lines; what it does lives in the module it names."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from jobs import age_up, curriculum
from jobs.context import ADDRESS_OPTION, HOME_OPTION, JSON_OPTION, friendly_errors, gen_number, out, resolve_home, say
from jobs.generation import run as generation
from jobs.reward import commands as reward
from jobs.teacher import commands as teach
from ledger.errors import LunaError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Raise a trio of small language models on your own rig, generation by generation.",
)
generation_app = typer.Typer(no_args_is_help=True, help="Raise and look at generations.")
ledger_app = typer.Typer(no_args_is_help=True, help="Read, check and export the record.")
app.add_typer(generation_app, name="generation")
app.add_typer(ledger_app, name="ledger")
app.add_typer(curriculum.app, name="curriculum")
app.add_typer(teach.app, name="teach")
app.add_typer(reward.app, name="reward")

GEN_ARGUMENT = typer.Argument(..., help="A generation, G2 or 2.")


def main() -> None:
    """Entry point of the `luna` script."""
    app()


@app.command()
def demo(
    fresh: bool = typer.Option(False, "--fresh", help="Raise a new lineage even if the demo was finished here."),
    profile: str = typer.Option("smol", help="Profile of the demo's home."),
    home: Path | None = HOME_OPTION,
    address: str | None = ADDRESS_OPTION,
) -> None:
    """Raise G0, G1 and G2 of a real trio, have one bad generation rejected, and show the record."""
    from jobs.demo.run import run_demo

    with friendly_errors():
        run_demo(resolve_home(home), profile, address, fresh)


@app.command()
def init(
    profile: str = typer.Option("smol", help="A file under configs/: tiny, smol, rig, rig-1b."),
    lineage: str = typer.Option("main", help="Name of the lineage to begin."),
    home: Path | None = HOME_OPTION,
    address: str | None = ADDRESS_OPTION,
) -> None:
    """Make a home: settings, base, ledger, and a lineage. On an existing home: begin another lineage."""
    from jobs.home import make_home

    with friendly_errors():
        make_home(resolve_home(home), profile, address, lineage)


@app.command()
def status(json_: bool = JSON_OPTION, home: Path | None = HOME_OPTION) -> None:
    """Head, age, karma, what is new, the last generation's gates, and what runs now."""
    from jobs.generation.show import print_status
    from jobs.status import growth, running_now

    with friendly_errors():
        place = resolve_home(home)
        running, dashboard = running_now(place)
        print_status(place, running, dashboard, growth(place), out, json_)


@app.command()
def submit(
    job: str = typer.Argument(..., help="A module of jobs/, such as generation."),
    arguments: list[str] = typer.Argument(None, help="Its own options, after --."),
    address: str | None = ADDRESS_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Submit a job to Ray and stream its log. Ctrl-C leaves the job running."""
    from jobs.submit import submit_job

    with friendly_errors():
        raise typer.Exit(submit_job(job, arguments or [], address, resolve_home(home)))


app.command("age-up")(age_up.main)


@app.command()
def reproduce(gen: str = GEN_ARGUMENT, home: Path | None = HOME_OPTION) -> None:
    """Train a generation again from its record and compare child_sha."""
    from jobs.generation.reproduce import reproduce as again

    with friendly_errors():
        results = again(resolve_home(home), gen_number(gen))
        for role, (recorded, found) in results.items():
            word = "equal" if recorded == found else "DIFFERENT"
            out.print(f"{role:<12} recorded {recorded}  found {found}  {word}", soft_wrap=True)
        if any(recorded != found for recorded, found in results.values()):
            raise LunaError("the bytes differ: other hardware, thread count or library versions, or a changed record.")


@app.command()
def rollback(gen: str = GEN_ARGUMENT, home: Path | None = HOME_OPTION, address: str | None = ADDRESS_OPTION) -> None:
    """Move the head to an accepted generation; a running server follows."""
    from cluster.calls import get
    from cluster.coordinator import coordinator_for
    from cluster.ray_head import connect
    from ledger.store import Ledger

    with friendly_errors():
        place = resolve_home(home)
        Ledger.open(place).close()
        connect(address)
        moved = get(coordinator_for(place).rollback.remote(gen_number(gen)))
        out.print(f"head: G{moved['from_gen']} → G{moved['to_gen']}" + (", served" if moved["served"] else ""))


@app.command()
def serve(
    stop: bool = typer.Option(False, "--stop", help="Take the server down."),
    home: Path | None = HOME_OPTION,
    address: str | None = ADDRESS_OPTION,
) -> None:
    """Answer users: an OpenAI-compatible API over the current lineage."""
    from jobs import serve as serving

    with friendly_errors():
        if stop:
            serving.stop(address)
        else:
            serving.serve(resolve_home(home), address, out)


@app.command()
def deploy(gen: str = GEN_ARGUMENT, home: Path | None = HOME_OPTION, address: str | None = ADDRESS_OPTION) -> None:
    """Serve another generation as luna-<role>; the ledger's head stays where it is."""
    from jobs import serve as serving

    with friendly_errors():
        serving.deploy(resolve_home(home), gen_number(gen), address, out)


@app.command()
def chat(
    role: str = typer.Option("dialectical", help="creative, logical, dialectical or base."),
    max_tokens: int = typer.Option(120, help="Longest answer."),
    home: Path | None = HOME_OPTION,
) -> None:
    """Talk to what `luna serve` serves."""
    from jobs.chat import chat as talk

    with friendly_errors():
        talk(resolve_home(home), role, max_tokens, out, lambda: input("> "))


@app.command()
def compare(
    prompt: str = typer.Argument(..., help="What to ask."),
    who: list[str] = typer.Argument(..., help="Generations and base: G1 G3 base."),
    role: str = typer.Option("dialectical", help="creative, logical or dialectical."),
    max_tokens: int = typer.Option(60, help="Longest answer."),
    home: Path | None = HOME_OPTION,
    address: str | None = ADDRESS_OPTION,
) -> None:
    """Ask several generations the same and show their answers side by side, rejected ones too."""
    from jobs.chat import compare as side_by_side

    with friendly_errors():
        side_by_side(resolve_home(home), prompt, who, role, max_tokens, address, out)


@app.command()
def regress(
    gen: str = GEN_ARGUMENT,
    against: str | None = typer.Option(None, help="The generation to compare with; default the parent."),
    prompts: Path | None = typer.Option(None, help="A TOML file of prompts; default those that Luna ships."),
    json_: bool = JSON_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Run a generation against prompts kept by hand, and show what changed. Exit status 1 if one broke."""
    from jobs.generation.regress import print_regression
    from jobs.generation.regress import regress as run

    with friendly_errors():
        found = run(resolve_home(home), gen_number(gen), None if against is None else gen_number(against), prompts)
        if json_:
            out.print_json(json.dumps(found, ensure_ascii=False))
        else:
            print_regression(found, out)
        if any(outcome["verdict"] == "broken" for outcome in found["outcomes"]):
            raise typer.Exit(1)


@app.command()
def down() -> None:
    """Stop the Ray that Luna started on this machine (a running generation resumes later)."""
    from cluster.ray_head import head_to_stop, stop

    with friendly_errors():
        head = head_to_stop()
        if head is not None:
            stop(head)
        say("Ray was not running" if head is None else "Ray stopped")


@generation_app.command("run")
def generation_run(
    data: list[str] = typer.Option(None, "--data", help="Inbox files by SHA; default the whole inbox."),
    steps: int | None = typer.Option(None, help="Optimizer steps, instead of the settings'."),
    seed: int | None = typer.Option(None, help="Seed, instead of the settings'."),
    interpolation: bool = typer.Option(True, help="Try blends of parent and child before a rejection."),
    channels: str | None = generation.CHANNELS_OPTION,
    preferences: list[Path] = generation.PREFERENCES_OPTION,
    home: Path | None = HOME_OPTION,
    address: str | None = ADDRESS_OPTION,
) -> None:
    """Raise the next generation on what is new, or resume one that was interrupted."""
    from jobs.generation.run import raise_generation
    from jobs.generation.show import print_generation

    with friendly_errors():
        place = resolve_home(home)
        overrides: dict[str, object] = {"train": {"steps": steps}} if steps is not None else {}
        if seed is not None:
            overrides["seed"] = seed
        if not interpolation:
            overrides["blends"] = {"enabled": False}
        if channels is not None:
            overrides["channels"] = {"mode": channels}
        chosen = tuple(data) if data else None
        result = raise_generation(place, address, chosen, overrides, preferences=preferences or ())
        print_generation(place, result["gen_id"], out)


@generation_app.command("show")
def generation_show(gen: str = GEN_ARGUMENT, json_: bool = JSON_OPTION, home: Path | None = HOME_OPTION) -> None:
    """One generation with every score."""
    from jobs.generation.show import print_generation

    with friendly_errors():
        print_generation(resolve_home(home), gen_number(gen), out, json_)


@generation_app.command("list")
def generation_list(json_: bool = JSON_OPTION, home: Path | None = HOME_OPTION) -> None:
    """All generations of the current lineage, rejected ones too."""
    from jobs.generation.show import print_generations

    with friendly_errors():
        print_generations(resolve_home(home), out, json_)


@generation_app.command("abandon")
def generation_abandon(home: Path | None = HOME_OPTION, address: str | None = ADDRESS_OPTION) -> None:
    """Give up an interrupted run; its number is not used again."""
    from cluster.calls import get
    from cluster.coordinator import coordinator_for
    from cluster.ray_head import connect

    with friendly_errors():
        connect(address)
        out.print(f"abandoned {get(coordinator_for(resolve_home(home)).abandon.remote())}")


@ledger_app.command("show")
def ledger_show(json_: bool = JSON_OPTION, home: Path | None = HOME_OPTION) -> None:
    """The ledger as the CSV has it."""
    from ledger.store import Ledger

    with friendly_errors():
        place = resolve_home(home)
        with Ledger.open(place) as ledger:
            rows = ledger.rows()
        if json_:
            out.print_json(json.dumps([row.model_dump(mode="json") for row in rows]))
        else:
            typer.echo(place.csv.read_text(encoding="utf-8"), nl=False)


@ledger_app.command("verify")
def ledger_verify(json_: bool = JSON_OPTION, home: Path | None = HOME_OPTION) -> None:
    """Recompute every hash and link; name what is wrong. Exit status 1 if anything is."""
    from dataclasses import asdict

    from ledger.verification.ledger import verify

    with friendly_errors():
        problems = verify(resolve_home(home))
        if json_:
            out.print_json(json.dumps([asdict(problem) for problem in problems]))
        else:
            for problem in problems:
                out.print(str(problem), markup=False, soft_wrap=True)
            out.print(f"{len(problems)} problems" if problems else "the ledger is whole: every hash and link holds")
        if problems:
            raise typer.Exit(1)


@ledger_app.command("export")
def ledger_export(
    target: Path = typer.Argument(..., help="A .csv or .json file to write."), home: Path | None = HOME_OPTION
) -> None:
    """Write the rows and scores of the current lineage to a file."""
    from ledger.files import write_atomic
    from ledger.store import Ledger

    with friendly_errors():
        place = resolve_home(home)
        with Ledger.open(place) as ledger:
            rows = ledger.rows()
            scores = [score for gen_id in dict.fromkeys(row.gen_id for row in rows) for score in ledger.evals(gen_id)]
        if target.suffix == ".csv":
            write_atomic(target, place.csv.read_bytes())
        elif target.suffix == ".json":
            content = {
                "rows": [row.model_dump(mode="json") for row in rows],
                "evals": [s.model_dump(mode="json") for s in scores],
            }
            write_atomic(target, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        else:
            raise LunaError(f"cannot export to {target}; name a file that ends in .csv or .json.")
        say(f"wrote {target}")


if __name__ == "__main__":
    main()
