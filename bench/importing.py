"""How long an import of 100,000 messages takes and how much memory, for three forms of files that are made here.

    python -m bench.importing

The bar: 100,000 messages in under 60 s and under 1 GiB, for all three roles, secrets masked, files written.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.report import keep

MESSAGES = 100_000
A_TALK, A_LONG_TALK = 20, 200
SECONDS_BAR, MIB_BAR = 60.0, 1024.0
_SENTENCE = "the kettle boils water for tea and a cup of it is on the table where we sat in the morning before rain"
_WORDS = _SENTENCE.split()


def main() -> None:
    rows = []
    met = True
    with tempfile.TemporaryDirectory() as folder:
        for name, write in FORMS.items():
            file = Path(folder, name)
            write(file, random.Random(1))
            seconds, mib = measured(file, Path(folder, f"home-{name}"))
            met = met and seconds < SECONDS_BAR and mib < MIB_BAR
            rows.append((name, f"{MESSAGES:,}", f"{file.stat().st_size / 2**20:.0f}", f"{seconds:.1f}", f"{mib:.0f}"))
    keep(
        "importing",
        "What an import costs",
        ("file", "messages", "MiB", "seconds", "peak MiB"),
        rows,
        [
            f"`luna curriculum import FILE --role all` in a process of its own; talks of {A_TALK} messages, in "
            f"long.jsonl {A_LONG_TALK}; one "
            "message in 50 with an address or a number; the bar is 100,000 messages in under 60 s and under 1 GiB: "
            + ("met" if met else "NOT met")
        ],
    )


def measured(file: Path, home: Path) -> tuple[float, float]:
    """(wall seconds, peak MiB) of the command."""
    command = [sys.executable, "-c", RUN, "curriculum", "import", str(file), "--home", str(home)]
    begin = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    return seconds, int(done.stderr.rsplit("PEAK", 1)[1]) / (2**20 if sys.platform == "darwin" else 2**10)


RUN = """
import resource, sys
from jobs.cli import main
try:
    main()
finally:
    print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def sentences(dice: random.Random, least: int, most: int) -> str:
    text = " ".join(dice.choices(_WORDS, k=dice.randint(least, most)))
    if dice.random() < 0.02:
        text += dice.choice((" mail me at anna@example.com", " call +49 30 901820", " from 203.0.113.7"))
    return text


def talks(dice: random.Random, messages: int = A_TALK) -> list[list[tuple[str, str]]]:
    return [
        [
            (("user", sentences(dice, 5, 30)) if turn % 2 == 0 else ("assistant", sentences(dice, 20, 200)))
            for turn in range(messages)
        ]
        for _ in range(MESSAGES // messages)
    ]


def write_messages(file: Path, dice: random.Random, messages: int = A_TALK) -> None:
    spoken = talks(dice, messages)
    lines = (json.dumps({"messages": [{"role": who, "content": text} for who, text in talk]}) for talk in spoken)
    file.write_text("\n".join(lines), encoding="utf-8")


def write_chatgpt(file: Path, dice: random.Random) -> None:
    conversations = []
    for number, talk in enumerate(talks(dice)):
        mapping: dict[str, object] = {"root": {"id": "root", "message": None, "parent": None, "children": ["0"]}}
        for turn, (who, text) in enumerate(talk):
            message = {
                "id": f"{number}-{turn}", "author": {"role": who, "name": None, "metadata": {}}, "create_time": 1.7e9,
                "content": {"content_type": "text", "parts": [text]}, "status": "finished_successfully",
                "weight": 1.0, "metadata": {"model_slug": "gpt", "parent_id": "x" * 36}, "recipient": "all",
            }  # fmt: skip
            mapping[str(turn)] = {
                "id": str(turn), "message": message, "parent": str(turn - 1) if turn else "root", "children": []
            }  # fmt: skip
        conversations.append(
            {"title": "a talk", "create_time": 1.7e9, "conversation_id": f"talk-{number}", "mapping": mapping,
             "current_node": str(len(talk) - 1)}
        )  # fmt: skip
    file.write_text(json.dumps(conversations), encoding="utf-8")


def write_records(file: Path, dice: random.Random) -> None:
    lines = (
        json.dumps({"input": sentences(dice, 5, 30), "output": sentences(dice, 20, 200)}) for _ in range(MESSAGES // 2)
    )
    file.write_text("\n".join(lines), encoding="utf-8")


FORMS: dict[str, Callable[[Path, random.Random], None]] = {
    "messages.jsonl": write_messages,
    "long.jsonl": partial(write_messages, messages=A_LONG_TALK),
    "conversations.json": write_chatgpt,
    "records.jsonl": write_records,
}


if __name__ == "__main__":
    main()
