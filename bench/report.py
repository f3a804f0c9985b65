"""One way to print a table and keep it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def machine_line() -> str:
    """What the figures were measured on, without naming the host."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}"
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{model} ({capability}), {torch.get_num_threads()} threads, torch {torch.__version__}"


def keep(
    name: str,
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    measured: tuple[str, str] | None = None,
) -> Path:
    """Print a Markdown table with its machine, date and notes, and write it to `bench/results/<name>.md`.

    `measured` is (date, machine) of figures that come from elsewhere; none: from here, today.
    """
    day, machine = measured or (date.today().isoformat(), machine_line())
    widths = [max(len(str(line[i])) for line in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    text = "\n".join(
        [
            f"# {title}",
            "",
            f"{day}, {machine}.",
            "",
            line(header),
            "|" + "|".join("-" * (width + 2) for width in widths) + "|",
            *(line(row) for row in rows),
            "",
            *(f"- {note}" for note in notes),
            "",
        ]
    )
    print(text)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.md"
    path.write_text(text)
    return path
