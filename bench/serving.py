"""What Luna's serving costs: the same vLLM with the same flags, bare and behind Ray Serve, in turns.

    luna serve && python -m bench.serving [--alternations 6]

Each alternation asks both servers for the head's dialectical adapter, in an order that alternates too: tokens a second
at concurrency 8, and the fixed cost of a small request (GET /v1/models). A difference smaller than the spread of one
server's own figures is noise, and the table says so. Both servers stay up meanwhile; an idle one takes no time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from bench.progress import say
from bench.report import keep
from cluster.settings import settings_of
from curriculum.render import render_prompt
from jobs.context import resolve_home
from ledger.errors import LunaError
from ledger.home import Home
from ledger.store import Ledger
from serving import app
from serving.engines.vllm import engine_arguments

CONCURRENCY, REQUESTS, TOKENS, SMALL = 8, 16, 24, 100
MODEL = "luna-dialectical"


@dataclass
class Server:
    """One server and what was measured on it."""

    name: str
    url: str
    tokens_per_s: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    small_ms: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alternations", type=int, default=6)
    arguments = parser.parse_args()
    home = resolve_home(None)
    luna = Server("Luna", app.url(settings_of(home).serving))
    if httpx.get(f"{luna.url}/healthz").status_code != 200:
        raise LunaError("Luna is not served; `luna serve` first.")
    with bare_server(home) as url:
        bare = Server("bare vLLM", url)
        for server in (bare, luna):  # warm
            asyncio.run(crowd(server.url))
        for number in range(arguments.alternations):
            for server in (bare, luna) if number % 2 == 0 else (luna, bare):
                measure(server)
                say(f"{number + 1}: {server.name} {server.tokens_per_s[-1]:.1f} tokens/s")
    report(luna, bare, arguments.alternations)


@contextmanager
def bare_server(home: Home) -> Iterator[str]:
    """vLLM's own server with Luna's flags and the head's adapter under the same name."""
    settings, text = settings_of(home).serving, settings_of(home).text
    with Ledger.open(home) as ledger:
        head = ledger.head()
        if head is None:
            raise LunaError("there is no head to measure; `luna demo` raises one.")
        row = next(row for row in ledger.generation(head) if row.role == "dialectical")
    port = settings.port + 1
    command = [
        sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry",
        *engine_arguments(home.base_dir(row.base_sha), settings, text.max_tokens, on_cpu=True),
        f"--port={port}", "--host=127.0.0.1", f"--lora-modules={MODEL}={home.adapter_dir(row.child_sha)}",
    ]  # fmt: skip
    quiet = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_CPU_KVCACHE_SPACE": str(settings.cpu_kv_cache_gib)}
    process = subprocess.Popen(
        command, env={**os.environ, **quiet, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(url, process)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _wait_until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise LunaError(f"vLLM's own server ended with status {process.returncode} while it started.")
        try:
            if httpx.get(f"{url}/v1/models").status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(1)
    raise LunaError("vLLM's own server did not start within five minutes.")


def measure(server: Server) -> None:
    """One turn of a server."""
    seconds, latencies = asyncio.run(crowd(server.url))
    server.tokens_per_s.append(REQUESTS * TOKENS / seconds)
    server.latency_s += latencies
    with httpx.Client(base_url=server.url) as client:
        client.get("/v1/models")
        for _ in range(SMALL):
            began = time.perf_counter()
            client.get("/v1/models").raise_for_status()
            server.small_ms.append(1000 * (time.perf_counter() - began))


async def crowd(url: str) -> tuple[float, list[float]]:
    """(seconds for all requests, seconds of each): eight clients, each answer of the same length."""
    gate, latencies = asyncio.Semaphore(CONCURRENCY), []

    async def one(client: httpx.AsyncClient, number: int) -> None:
        prompt = render_prompt("dialectical", f"What is {number} and what is it not?")
        body = {"model": MODEL, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
        async with gate:
            began = time.perf_counter()
            answer = await client.post("/v1/completions", json=body)
            latencies.append(time.perf_counter() - began)
        answer.raise_for_status()
        assert answer.json()["usage"]["completion_tokens"] == TOKENS

    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        began = time.perf_counter()
        await asyncio.gather(*(one(client, number) for number in range(REQUESTS)))
        return time.perf_counter() - began, latencies


def report(luna: Server, bare: Server, alternations: int) -> None:
    """The table, and whether the difference is more than noise."""
    ratios = [ours / theirs for ours, theirs in zip(luna.tokens_per_s, bare.tokens_per_s, strict=True)]
    ratio = statistics.median(luna.tokens_per_s) / statistics.median(bare.tokens_per_s)
    spread = max(_spread(luna.tokens_per_s), _spread(bare.tokens_per_s))
    verdict = "noise exceeds the difference" if spread > abs(1 - ratio) else "more than noise"
    fixed = statistics.median(luna.small_ms) - statistics.median(bare.small_ms)
    rows = [
        [
            server.name,
            f"{statistics.median(server.tokens_per_s):.1f}",
            f"{min(server.tokens_per_s):.1f} to {max(server.tokens_per_s):.1f}",
            f"{statistics.median(server.latency_s):.2f} / {statistics.quantiles(server.latency_s, n=20)[-1]:.2f}",
            f"{statistics.median(server.small_ms):.1f}",
        ]
        for server in (bare, luna)
    ]
    notes = [
        (
            f"{alternations} alternations, order alternated; each {REQUESTS} requests of {TOKENS} tokens, "
            f"{CONCURRENCY} at once"
        ),
        (
            f"ratio of medians {ratio:.3f} (single alternations {min(ratios):.2f} to {max(ratios):.2f}); spread of "
            f"one server's own figures {spread:.2f}: {verdict}"
        ),
        f"fixed cost of a small request: {fixed:+.1f} ms",
    ]
    header = ["server", "tokens/s, median", "range", "request s, p50 / p95", "GET /v1/models ms, p50"]
    keep("serving", "Serving: Luna beside bare vLLM", header, rows, notes)


def _spread(values: list[float]) -> float:
    """Interquartile range over the median."""
    quarters = statistics.quantiles(values, n=4)
    return (quarters[2] - quarters[0]) / statistics.median(values)


if __name__ == "__main__":
    main()
