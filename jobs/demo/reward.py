"""The demo's last part: a reward model distilled from the offline teacher, and what it makes of Luna's answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from jobs.context import err
from ledger.home import Home
from ledger.store import Ledger

if TYPE_CHECKING:
    from trainers.reward.model import RewardModel

logger = logging.getLogger(__name__)

SHOWN_PROBE = "I failed my exam today and I feel small."
"""One of the tone probes, which every generation answers when its style is measured."""

CANDIDATES = 6
"""Answers to each seed prompt that the rules label."""

SET = "demo"


def raise_reward_model(home: Home) -> None:
    """Have the seed prompts answered from templates and judged by the rules, and train the home's reward model on that.

    A home that has a reward model keeps it.

    Raises:
        LunaError: the encoder is missing, or the disk refuses.
    """
    from cluster.settings import settings_of
    from curriculum.teacher.candidates import read_candidates
    from curriculum.teacher.seed_prompts import seed_prompts
    from jobs.reward.training import rows_of, train_here
    from jobs.teacher.tasks import label_candidates, write_candidates

    if home.reward_pointer.exists():
        return
    err.rule("reward: what a teacher of written rules calls good")
    settings = settings_of(home)
    teacher = settings.teacher.model_copy(update={"candidates": CANDIDATES})
    answers, _ = read_candidates(write_candidates(home, SET, "rules", teacher, seed_prompts()))
    labels = label_candidates(home, SET, "rules", teacher, answers)
    rows, notes = rows_of(home, settings, [labels], None)
    train_here(home, settings, rows, notes, settings.seed)


def print_reward(home: Home, out: Console) -> None:
    """The reward vector of an answer of the first generation and of the head, and the mean over all tone probes."""
    from trainers.reward.model import current_model, load_reward_model

    with Ledger.open(home) as ledger:
        head, first = ledger.head(), ledger.rows()[0].gen_id
    if head is None or head == first:
        logger.info("no generation after the first was accepted, so there is no answer to compare.")
        return
    model = load_reward_model(current_model(home))
    before, after = _answers(home, first), _answers(home, head)
    out.rule("reward of the dialectical voice, before and after")
    out.print(f"user: {SHOWN_PROBE}", markup=False)
    out.print(f"G{first}: {before[SHOWN_PROBE]!r}", markup=False)
    out.print(f"G{head}: {after[SHOWN_PROBE]!r}", markup=False)
    out.print(_table(model, before, after, f"G{first}", f"G{head}"))
    out.print("[dim]distilled from written rules, not from a teacher that understands: docs/how-to/teacher.md[/dim]")


def _answers(home: Home, gen: int) -> Mapping[str, str]:
    """What a generation's dialectical voice said to the tone probes when its style was measured."""
    with Ledger.open(home) as ledger:
        measured = {(score.eval, score.role): score for score in ledger.evals(gen)}
    answers: Mapping[str, str] = measured["style_drift", "dialectical"].details["answers"]
    return answers


def _table(
    model: RewardModel, before: Mapping[str, str], after: Mapping[str, str], before_name: str, after_name: str
) -> Table:
    from curriculum.reward import VALUES

    prompts = [SHOWN_PROBE, *(prompt for prompt in before if prompt != SHOWN_PROBE)]
    old = model.score(prompts, [before[prompt] for prompt in prompts])
    new = model.score(prompts, [after[prompt] for prompt in prompts])
    table = Table("value", before_name, after_name, "change", f"mean of {len(prompts)}: {before_name}", after_name)
    for column in table.columns[1:]:
        column.justify = "right"
    for name in VALUES:
        olds, news = [getattr(score, name) for score in old], [getattr(score, name) for score in new]
        means = (sum(olds) / len(olds), sum(news) / len(news))
        figures = (olds[0], news[0], news[0] - olds[0], *means)
        table.add_row(name, *(f"{figure:+.2f}" for figure in figures))
    return table
