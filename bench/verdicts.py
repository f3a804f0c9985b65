"""How far verdicts can be trusted.

    python -m bench.verdicts --simulate [--trials 20000]

`--simulate`: how often gates, growing sets and blends err, over true accuracies; the rules are the real ones.
"""

import argparse

from bench.verdict_simulation import keep_simulation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulate", action="store_true", help="error rates by simulation; no model is run")
    parser.add_argument("--trials", type=int, default=20_000, help="simulated verdicts a figure")
    options = parser.parse_args()
    if options.simulate:
        keep_simulation(options.trials)
    else:
        parser.error("name what to measure: --simulate")


if __name__ == "__main__":
    main()
