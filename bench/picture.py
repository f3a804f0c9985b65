"""`python -m bench.picture`: the closing tables of a finished demo as docs/demo.svg, drawn from its ledger."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from jobs.context import resolve_home
from jobs.demo.reward import print_reward
from jobs.demo.run import print_closing

TARGET = Path(__file__).resolve().parent.parent / "docs" / "demo.svg"


def main() -> None:
    console = Console(record=True, width=118, file=io.StringIO(), highlight=False)
    home = resolve_home(None)
    print_reward(home, console)
    print_closing(home, None, console)
    console.save_svg(str(TARGET), title="luna demo")
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()
