"""Swaps under load, on whatever `luna serve` serves: nobody may fail, get another's answer, or an old one.

    python -m bench.swap [--seconds 60]

Eight clients ask in a loop, a quarter of them streaming. Every five seconds the current generation changes to one whose
adapters have just been pushed out of their slots by others. Serve with dtype = "float32": in bfloat16 a request's text
depends a little on what it is batched with, and cannot be compared with what was answered alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import threading
import time
from typing import Any

import httpx

from bench.progress import say
from bench.report import keep
from cluster.ray_head import connect
from cluster.server.client import deploy, state
from cluster.settings import settings_of
from jobs.context import resolve_home
from ledger.errors import LunaError
from ledger.roles import ROLES, Role
from serving import app

CLIENTS, TOKENS, EVERY_S = 8, 8, 5.0
PROMPTS = ("Hello there.", "7 is even?", "What if the sun were blue?")

Key = tuple[Role, int, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    seconds = parser.parse_args().seconds
    home = resolve_home(None)
    connect()
    url = app.url(settings_of(home).serving)
    served = state(home)
    if served["previous"] is None:
        raise LunaError("two generations must be served, to swap between them; raise another.")
    pair, others = (served["current"], served["previous"]), served["generations"]
    known = {(role, gen, prompt): ask(url, f"luna-{role}-g{gen}", prompt)[1]
             for role in ROLES for gen in pair for prompt in PROMPTS}  # fmt: skip
    say("answers known; swapping")
    stop, answers, problems = threading.Event(), list[tuple[Key, str]](), list[str]()
    clients = [threading.Thread(target=talk, args=(url, i, stop, answers, problems)) for i in range(CLIENTS)]
    for client in clients:
        client.start()
    swaps = swap_until(time.monotonic() + seconds, home, url, pair, others, problems)
    stop.set()
    for client in clients:
        client.join()
    spliced = sum(text != known[key] for key, text in answers)
    rows = [[
        str(len(answers)), str(len(swaps)), str(len(problems)), str(spliced),
        f"{statistics.median(swaps):.1f}", f"{max(swaps):.1f}",
    ]]  # fmt: skip
    header = ["answers", "swaps", "failed or stale", "not the generation's own text", "switch ms, p50", "max"]
    notes = [f"{seconds:.0f} s, {CLIENTS} clients, every fourth request streams", *problems[:5]]
    keep("swap", "Swaps under load", header, rows, notes)


def swap_until(
    end: float, home: Any, url: str, pair: tuple[int, int], others: list[int], problems: list[str]
) -> list[float]:
    """Milliseconds that each switch took in the server."""
    took: list[float] = []
    for gen in itertools.cycle(pair[::-1]):
        time.sleep(EVERY_S)
        if time.monotonic() > end:
            return took
        for other, role in itertools.product((g for g in others if g != gen), ROLES):
            ask(url, f"luna-{role}-g{other}", PROMPTS[0])  # pushes the target out of its slots
        took.append(1000 * deploy(home, gen)["switch_s"])
        if (found := ask(url, "luna-logical", PROMPTS[0])[0]) != gen:
            problems.append(f"stale: G{found} answered after the switch to G{gen}")
    return took


def talk(url: str, number: int, stop: threading.Event, answers: list[tuple[Key, str]], problems: list[str]) -> None:
    """One client's loop."""
    for turn in itertools.count():
        if stop.is_set():
            return
        role, prompt = ROLES[turn % 3], PROMPTS[(turn + number) % 3]
        try:
            gen, text = ask(url, f"luna-{role}", prompt, stream=(turn + number) % 4 == 0)
            answers.append(((role, gen, prompt), text))
        except Exception as error:
            problems.append(repr(error))


def ask(url: str, model: str, prompt: str, stream: bool = False) -> tuple[int, str]:
    """(the generation that answered, its greedy text)."""
    body = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "stream": stream}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=120)
    answer.raise_for_status()
    gen = int(answer.headers["x-luna-generation"].removeprefix("G"))
    if not stream:
        return gen, answer.json()["choices"][0]["text"]
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    if lines[-1] != "[DONE]":
        raise LunaError(f"the stream broke off: {lines[-1]}")
    return gen, "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1])


if __name__ == "__main__":
    main()
