"""vLLM's own benchmark client against whatever `luna serve` serves: does the stock tool run, and does nothing fail.

    luna serve && python -m bench.vllm_client [--requests 32]

The client is vLLM's `bench serve`, in a process of its own, with random prompts; once for completions, once for chat.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.report import keep
from cluster.settings import settings_of
from jobs.context import resolve_home
from ledger.errors import LunaError
from ledger.home import Home
from ledger.store import Ledger
from serving import app

MODEL, AT_ONCE, PROMPT_TOKENS, ANSWER_TOKENS = "luna-dialectical", 8, 48, 24

CLIENT = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""What `vllm bench serve` runs; that command looks for a package named vllm, and the CPU build has another name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=32)
    requests = parser.parse_args().requests
    home = resolve_home(None)
    found = {
        backend: measure(home, backend, endpoint, requests)
        for backend, endpoint in (("openai", "/v1/completions"), ("openai-chat", "/v1/chat/completions"))
    }
    rows = [
        [
            name,
            str(result["completed"]),
            str(requests - result["completed"]),
            f"{result['output_throughput']:.1f}",
            f"{result['median_ttft_ms']:.0f}",
            f"{result['median_tpot_ms']:.0f}",
        ]
        for name, result in found.items()
    ]
    header = ["backend", "completed", "failed", "tokens/s", "first token ms, p50", "ms a further token, p50"]
    shape = f"{AT_ONCE} at once, {PROMPT_TOKENS} random tokens in, {ANSWER_TOKENS} out, {MODEL}"
    keep("vllm_client", "vLLM's benchmark client against Luna", header, rows, [shape])


def measure(home: Home, backend: str, endpoint: str, requests: int) -> dict[str, Any]:
    """One run of the client; what it saved."""
    with Ledger.open(home) as ledger:
        head = ledger.head()
        if head is None:
            raise LunaError("no generation was accepted yet, so nothing is served; `luna demo` raises some.")
        base_sha = ledger.generation(head)[0].base_sha
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "backend": backend, "endpoint": endpoint, "base-url": app.url(settings_of(home).serving), "model": MODEL,
            "tokenizer": home.base_dir(base_sha), "dataset-name": "random", "random-input-len": PROMPT_TOKENS,
            "random-output-len": ANSWER_TOKENS, "num-prompts": requests, "max-concurrency": AT_ONCE, "seed": 1,
            "result-dir": folder, "result-filename": "result.json",
        }  # fmt: skip
        command = [sys.executable, "-c", CLIENT, "--save-result"]
        command += [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
        quiet = {**os.environ, "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
        if done.returncode:
            raise LunaError(f"vLLM's client failed: {done.stderr.strip().splitlines()[-1]}")
        found: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    main()
