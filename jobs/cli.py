"""The command `luna`: which commands there are. Each one lives in the module of its job.

To add one: write a function with typer options in a module that imports nothing heavy at its top, and register it here.
What may run as a Ray job is listed in `jobs/submit/request.py`.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import typer

from jobs import age_up, chat, curriculum, down, home, ledger, serve, status
from jobs.context import EXIT_STATUSES
from jobs.demo import commands as demo
from jobs.generation import commands as generation
from jobs.reward import commands as reward
from jobs.rig import commands as rig
from jobs.submit import commands as submit
from jobs.teacher import commands as teach

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_STATUSES,
)

app.command("demo")(demo.demo)
app.command("init")(home.init)
app.command("status")(status.status)
app.command("submit")(submit.submit)
app.command("age-up")(age_up.main)
app.command("reproduce")(generation.reproduce)
app.command("regress")(generation.regress)
app.command("rollback")(serve.rollback_command)
app.command("serve")(serve.serve_command)
app.command("deploy")(serve.deploy_command)
app.command("chat")(chat.chat_command)
app.command("compare")(chat.compare_command)
app.command("down")(down.down)
app.command("plan")(rig.plan_command)
app.command("doctor")(rig.doctor_command)
app.add_typer(generation.app, name="generation")
app.add_typer(ledger.app, name="ledger")
app.add_typer(curriculum.app, name="curriculum")
app.add_typer(teach.app, name="teach")
app.add_typer(reward.app, name="reward")
app.add_typer(submit.app, name="jobs")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"luna {version('luna')}")
        raise typer.Exit


@app.callback()
def luna(
    home: Path | None = typer.Option(None, "--home", help="Home folder, for any command.", show_default=False),
    address: str | None = typer.Option(None, "--address", help="Ray cluster, for any command.", show_default=False),
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True, callback=_print_version),
) -> None:
    """Raise a trio of small language models on your own rig, generation by generation."""


def main() -> None:
    """Entry point of the `luna` script."""
    app(prog_name="luna")


if __name__ == "__main__":
    main()
