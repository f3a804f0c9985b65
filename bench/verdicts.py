"""How far verdicts can be trusted.

    python -m bench.verdicts [--only NAME ...]   six honest deltas and six bad ones, each raised as G1 with the defaults
    python -m bench.verdicts --report            the table of those that are judged
    python -m bench.verdicts --simulate [--trials 20000]

`--simulate`: how often gates, growing sets and blends err, over true accuracies; the rules are the real ones. Deltas
are in `bench.deltas`; what is judged stays in `--work`, and the same command goes on with the rest.
"""

import argparse
import sys
from pathlib import Path

from bench.verdict_simulation import keep_simulation
from ledger.errors import LunaError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="these deltas alone")
    parser.add_argument("--profile", default="smol")
    parser.add_argument("--work", type=Path, default=Path("home") / "verdicts", help="where the homes are")
    parser.add_argument("--report", action="store_true", help="only write the table of what is judged")
    parser.add_argument("--simulate", action="store_true", help="error rates by simulation; no model is run")
    parser.add_argument("--trials", type=int, default=20_000, help="simulated verdicts a figure")
    options = parser.parse_args()
    if options.simulate:
        keep_simulation(options.trials)
        return
    from bench.verdict_deltas import keep_table, measure_deltas

    try:
        if options.report:
            keep_table(options.work)
        else:
            measure_deltas(options.work, options.only, options.profile)
    except LunaError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
