"""What a bench tells while it measures; its results go to standard output and `bench/results/`."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """One line, at once."""
    print(text, file=sys.stderr, flush=True)
