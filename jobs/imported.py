"""What an import took and what it left out, in lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ledger.home import Home
from ledger.roles import ROLES

if TYPE_CHECKING:
    from cluster.settings import Settings
    from curriculum.importing import ImportReport

_SHOWN_REASONS = 12
_SAMPLES = 3
_SAMPLE_CHARACTERS = 240


def summary_lines(report: ImportReport) -> list[str]:
    """Counts by form, and what was left out and why, the most frequent first."""
    lines = [f"read {sum(report.records.values())} records: {_counts(report.records)}"] if report.records else []
    if report.lessons:
        roles = Counter(one.example.role for one in report.kept)
        lines.append(
            f"{report.lessons} prompts with answers, {len(report.kept)} examples: "
            + _counts({role: roles[role] for role in ROLES if roles[role]})
        )
    if report.pairs:
        pairs = {(pair.context, pair.prompt, pair.chosen, pair.rejected) for pair in report.pairs}
        lines.append(f"{len(pairs)} preference pairs")
    reasons = sorted(report.reasons.values(), key=lambda reason: -reason.count)
    for reason in reasons[:_SHOWN_REASONS]:
        more = ", …" if reason.count > len(reason.places) else ""
        where = f"{reason.count} lines ({', '.join(reason.places)}{more})" if reason.count > 1 else reason.places[0]
        lines.append(f"skipped: {where}: {reason.text}")
    if len(reasons) > _SHOWN_REASONS:
        lines.append(f"skipped for {len(reasons) - _SHOWN_REASONS} other reasons as well")
    if report.left_out:
        lines.append(f"left out: {_counts(report.left_out)}")
    if report.duplicates:
        lines.append(f"left out as duplicates: {report.duplicates}")
    if report.reweighted:
        lines.append(f"given again with another weight or margin, of which the last counts: {report.reweighted}")
    if report.repaired:
        lines.append(f"removed from records: {_counts(report.repaired)}")
    if report.masked:
        lines.append(f"masked: {_counts(report.masked)} (--keep-personal-data keeps them)")
    return lines


def data_lines(home: Home, report: ImportReport) -> list[str]:
    """What the examples meet in this home: gates that may ask for more, and what is there already."""
    from cluster.settings import Settings, settings_of
    from curriculum.inspect import reweighted, weights_in

    if not report.kept:
        return []
    settings = settings_of(home, {}) if home.settings_file.exists() else Settings()
    lines = _lacking(report, settings)
    if taken := _taken(home, report):
        lines.append(f"{taken} examples have been learned already and are not learned again, whatever their weight")
    files = {file: weights_in(file) for file in sorted(home.inbox_dir.glob("*.parquet"))}
    lines += [
        f"{count} examples are in the inbox already with another weight; remove {file} so that the new one counts"
        for file, weights in files.items()
        if (count := reweighted((one.example for one in report.kept), weights))
    ]
    return lines


def _lacking(report: ImportReport, settings: Settings) -> list[str]:
    """Which roles get too few examples for the gates, and where the others come from."""
    least = -(-settings.gates.min_items * 100 // max(1, settings.data.holdout_percent))
    roles = Counter(one.example.role for one in report.kept)
    few = [role for role in ROLES if roles[role] < least]
    if not few:
        return []
    rest = (
        "what inbox and conversations lack too is filled from recipes"
        if settings.data.fill
        else "with [data] fill = false a generation is refused if inbox and conversations lack them too"
    )
    return [f"a generation needs about {least} new examples a role, and this gives fewer for {', '.join(few)}; {rest}"]


def _taken(home: Home, report: ImportReport) -> int:
    from ledger.store import Stores

    if not home.db.exists():
        return 0
    with Stores.open(home) as stores:
        return len(stores.ledger.taken_among([one.example.id for one in report.kept]))


def sample_lines(report: ImportReport) -> list[str]:
    """Three examples: the first, the middle one, and the last."""
    count = len(report.kept)
    lines = []
    for place in sorted({0, count // 2, count - 1} if count else ())[:_SAMPLES]:
        example, before = report.kept[place].example, report.kept[place].before
        context = before.text() if before else example.context
        lines.append(f"sample, {example.role}, {example.source}:")
        for name, text in (("before", context), ("prompt", example.input), ("answer", example.output)):
            if text:
                lines.append(f"  {name}: {_short(text)}")
    for pair in report.pairs[:1]:
        lines.append(f"sample pair: {_short(pair.prompt)}")
        lines += [f"  better: {_short(pair.chosen)}", f"  worse: {_short(pair.rejected)}"]
    return lines


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _SAMPLE_CHARACTERS else words[: _SAMPLE_CHARACTERS - 1] + "…"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])))
