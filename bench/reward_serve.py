"""What /reward bears: sixteen clients that ask again as soon as they are answered, about answers of 128 tokens.

    luna serve && python -m bench.reward_serve [--seconds 10] [--turns 3]

In turns: a pair to a request, and as many pairs in flight as four clients with four pairs to a request. The clients run
on the same machine. The home needs a reward model (`luna reward train`), and [serving] requests_per_minute = 1000000.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from bench.progress import say
from bench.report import keep
from cluster.ray_head import connect
from cluster.settings import settings_of
from jobs.context import resolve_home
from ledger.errors import LunaError
from ledger.home import Home
from serving import app

CLIENTS, TOKENS, MANY = 16, 128, 4
WARM_S = 2.0
SENTENCES = (
    "I hear that you are worried.",
    "You could write to her tonight, or wait until she feels ready.",
    "What would help now?",
    "Maybe the silence means anger, or only an empty battery; nobody can know.",
    "Leave some room and stay kind.",
)


@dataclass
class Case:
    """One way to ask, and what was measured."""

    name: str
    pairs_a_request: int
    clients: int
    rates: list[float] = field(default_factory=list)
    """Pairs a second, one figure a turn."""
    seconds: list[float] = field(default_factory=list)
    """Of every request."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    home = resolve_home(None)
    settings = settings_of(home).serving
    connect()
    if app.running() is None or app.reward_running() is None:
        raise LunaError("no reward model is being served; `luna reward train`, then `luna serve`.")
    texts = answers(home)
    cases = [
        Case(f"{CLIENTS} clients, a pair to a request", 1, CLIENTS),
        Case(f"{CLIENTS // MANY} clients, {MANY} pairs to a request", MANY, CLIENTS // MANY),
    ]
    for _ in range(arguments.turns):
        for case in cases:
            asyncio.run(crowd(f"{app.url(settings)}/reward", case, texts, arguments.seconds))
            say(f"{case.name}: {case.rates[-1]:.1f} pairs/s")
    report(cases, arguments)


def answers(home: Home) -> Iterator[str]:
    """Texts of 128 tokens of the reward model's own tokenizer, each different."""
    from transformers import AutoTokenizer

    from trainers.reward.model import ENCODER_FOLDER, current_model

    tokenizer = AutoTokenizer.from_pretrained(current_model(home) / ENCODER_FOLDER)
    draw, found = random.Random(1), list[str]()
    while len(found) < 256:
        ids = tokenizer(" ".join(draw.choices(SENTENCES, k=40)), add_special_tokens=False)["input_ids"][:TOKENS]
        found.append(tokenizer.decode(ids))
    return itertools.cycle(found)


async def crowd(url: str, case: Case, texts: Iterator[str], seconds: float) -> None:
    """The case's clients for so long; the first two seconds do not count."""
    begin = time.perf_counter() + WARM_S
    end, answered = begin + seconds, 0

    async def one(session: aiohttp.ClientSession) -> None:
        nonlocal answered
        while (asked := time.perf_counter()) < end:
            pairs = [
                {"prompt": "My sister does not pick up. What should I do?", "response": next(texts)}
                for _ in range(case.pairs_a_request)
            ]
            body: Any = pairs if case.pairs_a_request > 1 else pairs[0]
            async with session.post(url, json=body) as answer:
                answer.raise_for_status()
                await answer.read()
            done = time.perf_counter()
            if begin <= done < end:
                answered += case.pairs_a_request
                case.seconds.append(done - asked)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(one(session) for _ in range(case.clients)))
    case.rates.append(answered / seconds)


def report(cases: list[Case], arguments: argparse.Namespace) -> None:
    """The table."""
    rows = []
    for case in cases:
        cuts = statistics.quantiles(case.seconds, n=100)
        rows.append(
            [
                case.name,
                f"{statistics.median(case.rates):.1f}",
                f"{min(case.rates):.1f} to {max(case.rates):.1f}",
                *(f"{1000 * cuts[percent - 1]:.0f}" for percent in (50, 95, 99)),
            ]
        )
    notes = [
        f"POST /reward by clients on the same machine, answers of {TOKENS} tokens and a prompt of 12",
        f"{arguments.turns} turns of {arguments.seconds:g} s each after {WARM_S:g} s",
    ]
    header = ["", "pairs/s, median", "range", "request ms, p50", "p95", "p99"]
    keep("reward_serve", "The reward model behind HTTP", header, rows, notes)


if __name__ == "__main__":
    main()
