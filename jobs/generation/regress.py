"""`luna regress G<n>`: a generation's answers to prompts kept by hand, beside its parent's.

Answers are greedy and kept under `data/regress/`, so that a later comparison need not ask the older generation again.
Not part of raising a generation: it would load another generation's adapters each time. Run it before you deploy.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from curriculum.regression import Outcome, RegressionPrompt, problems, prompts_sha, read_regression_prompts, word_diff
from curriculum.transcript import fit
from jobs.generation.engine import generation_rows, open_generation_engine
from ledger.errors import LunaError
from ledger.files import write_atomic
from ledger.home import Home
from ledger.records import GenerationRow

logger = logging.getLogger(__name__)


def regress(home: Home, gen_id: int, against: int | None, prompts_file: Path | None) -> dict[str, Any]:
    """Answers of a generation and of the other one, what is wrong with each, and what the reward model says.

    Args:
        against: the other generation; None takes the parent, and nothing where there is none.

    Returns:
        gen_id, against (None: not compared), outcomes with their verdicts, and `rewards` by prompt id: the nine values
        of the answer and of the other's, empty without a reward model.

    Raises:
        LunaError: a generation, adapter or file is missing, or the prompts cannot be read.
    """
    prompts = read_regression_prompts(prompts_file)
    rows = generation_rows(home, gen_id)
    other = rows[0].parent_gen if against is None else against
    other_rows = generation_rows(home, other) if other is not None else []
    if other_rows and other_rows[0].base_sha != rows[0].base_sha:
        raise LunaError(f"G{gen_id} and G{other} stand on different bases; compare generations of one lineage.")
    now = answers_of(home, rows, prompts)
    before = answers_of(home, other_rows, prompts) if other_rows else {}
    outcomes = [
        Outcome(
            id=prompt.id,
            role=prompt.role,
            answer=now[prompt.id],
            problems=problems(prompt, now[prompt.id]),
            before=before.get(prompt.id),
            problems_before=problems(prompt, before[prompt.id]) if prompt.id in before else (),
        )
        for prompt in prompts
    ]
    return {
        "gen_id": gen_id,
        "against": other,
        "outcomes": [{**asdict(outcome), "verdict": outcome.verdict} for outcome in outcomes],
        "rewards": _rewards(home, prompts, outcomes),
    }


def answers_of(home: Home, rows: Sequence[GenerationRow], prompts: Sequence[RegressionPrompt]) -> dict[str, str]:
    """Greedy answers by prompt id, from the home's file of them where it answers these prompts with these adapters."""
    sha, adapters = prompts_sha(prompts), {row.role: row.child_sha for row in rows}
    key: dict[str, Any] = {"prompts_sha": sha, "adapters": adapters}
    file = home.data_dir / "regress" / f"{rows[0].lineage}-g{rows[0].gen_id}-{sha[:8]}.json"
    if file.exists():
        stored = json.loads(file.read_text(encoding="utf-8"))
        if {name: stored.get(name) for name in key} == key:
            logger.info(f"G{rows[0].gen_id}: answers from {file}")
            return dict(stored["answers"])
    logger.info(f"G{rows[0].gen_id}: asking {len(prompts)} prompts")
    from cluster.settings import settings_of
    from trainers.models.adapter_set import AdapterSet

    room = settings_of(home).text.room
    engine = open_generation_engine(home, rows[0])
    generator = engine.generator(AdapterSet(home.adapters_dir, adapters))
    answers: dict[str, str] = {}
    for role, tokens in dict.fromkeys((prompt.role, prompt.tokens) for prompt in prompts):
        own = [prompt for prompt in prompts if (prompt.role, prompt.tokens) == (role, tokens)]
        asked = [fit(role, prompt.prompt, "", room, generator.count).prompt for prompt in own]
        found = generator.generate(role, asked, tokens)
        answers |= {prompt.id: answer.text for prompt, answer in zip(own, found, strict=True)}
    write_atomic(file, json.dumps({**key, "answers": answers}, ensure_ascii=False, indent=1) + "\n")
    return answers


def _rewards(
    home: Home, prompts: Sequence[RegressionPrompt], outcomes: Sequence[Outcome]
) -> dict[str, list[dict[str, float]]]:
    """For each prompt id the nine values of the answer, then of the other generation's where there is one."""
    from trainers.reward.model import load_reward_model, reward_model_in_use

    folder = reward_model_in_use(home)
    if folder is None:
        return {}
    model, found = load_reward_model(folder), {}
    for prompt, outcome in zip(prompts, outcomes, strict=True):
        texts = [outcome.answer] if outcome.before is None else [outcome.answer, outcome.before]
        scores = model.score([prompt.prompt] * len(texts), texts)
        found[prompt.id] = [score.model_dump(mode="json") for score in scores]
    return found


def print_regression(found: Mapping[str, Any], out: Console) -> None:
    """Each prompt with its verdict, the change, what is wrong and how its reward moved; then a line of totals."""
    other = "nothing to compare with" if found["against"] is None else f"against G{found['against']}"
    out.print(f"[bold]G{found['gen_id']}[/] {other}")
    for outcome in found["outcomes"]:
        answer, before = outcome["answer"].strip(), outcome["before"]
        shown = answer if before is None or before == outcome["answer"] else word_diff(before, answer)
        out.print(f"{outcome['verdict']:<12}{outcome['id']}: {shown!r}", markup=False, soft_wrap=True)
        for problem in outcome["problems"]:
            out.print(f"{'':<12}{problem}", markup=False)
        if line := _reward_line(found["rewards"].get(outcome["id"], [])):
            out.print(f"{'':<12}{line}", markup=False, soft_wrap=True)
    verdicts = [outcome["verdict"] for outcome in found["outcomes"]]
    out.print(", ".join(f"{verdicts.count(word)} {word}" for word in dict.fromkeys(verdicts)))


def _reward_line(scores: Sequence[Mapping[str, Any]]) -> str:
    """Preference of the answer, and the three values that moved most."""
    if not scores:
        return ""
    line = f"preference {scores[0]['scalar_preference']:+.2f}"
    if len(scores) < 2:
        return line
    moved = {name: scores[0][name] - scores[1][name] for name in scores[0]}
    most = sorted((name for name in moved if name != "scalar_preference"), key=lambda name: -abs(moved[name]))[:3]
    return f"{line} ({moved['scalar_preference']:+.2f}); " + ", ".join(f"{name} {moved[name]:+.2f}" for name in most)
