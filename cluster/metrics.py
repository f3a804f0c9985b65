"""What the coordinator tells Ray's metrics of the run in work, its verdict and the lineage's growth.

Pure but for `tell`: each function turns what is known anyway into samples.

MFU is not among them: it takes the peak of the device in its number format, which nothing measures on the spot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ledger.records import EvalRecord, GenerationRow
from ledger.rules.gates import GATES, RHI, GateSettings, judge
from ledger.rules.karma import KarmaState
from serving.metrics import Measure, Sample, tell
from trainers.job import TrioProgress

RUNNING = Measure("luna_running", "1 while a generation is raised, 0 while none is", ("lineage",))
GENERATION = Measure("luna_generation", "Number of the generation in work, or of the last one", ("lineage",))
STEP = Measure("luna_step", "Optimizer steps that a role has taken", ("lineage", "role"))
STEPS = Measure("luna_steps", "Optimizer steps that a role is to take", ("lineage", "role"))
LOSS = Measure(
    "luna_loss", "Loss of a role's latest step by channel, nats a token (dpo: a pair)", ("lineage", "role", "channel")
)
EXAMPLES = Measure("luna_examples_per_second", "Training speed, all roles together; 0 while none trains", ("lineage",))
TOKENS = Measure("luna_tokens_per_second", "Tokens of examples trained on, without padding and pairs", ("lineage",))
LEFT = Measure("luna_seconds_left", "Time until training ends, as it goes now", ("lineage",))
SCORE = Measure("luna_score", "A score of the last judged generation, by role", ("lineage", "role", "score"))
GATE = Measure(
    "luna_gate_passed", "1 where the last judged generation passed a gate, else 0", ("lineage", "role", "gate")
)
HEALTH = Measure("luna_reward_health_index", "RHI of the last judged generation that has one", ("lineage", "role"))
ACCEPTED = Measure("luna_accepted", "1 if the last judged generation was accepted, else 0", ("lineage",))
KARMA = Measure("luna_karma", "Karma earned since the last age-up", ("lineage",))
THRESHOLD = Measure("luna_karma_threshold", "Karma that the next age takes", ("lineage",))

COORDINATOR: tuple[Measure, ...] = (
    RUNNING, GENERATION, STEP, STEPS, LOSS, EXAMPLES, TOKENS, LEFT, SCORE, GATE, HEALTH, ACCEPTED, KARMA, THRESHOLD
)  # fmt: skip

__all__ = ["COORDINATOR", "Measure", "Sample", "of_growth", "of_progress", "of_run", "of_verdict", "tell"]


def of_run(lineage: str, gen_id: int, running: bool) -> list[Sample]:
    """That a generation is raised, or no longer."""
    told = [RUNNING.at(running, lineage), GENERATION.at(gen_id, lineage)]
    return told if running else [*told, *_at_rest(lineage)]


def of_progress(lineage: str, progress: TrioProgress) -> list[Sample]:
    """Where training stands."""
    channels = [("all", progress.losses), *progress.channels.items()]
    losses = [LOSS.at(loss, lineage, role, channel) for channel, own in channels for role, loss in own.items()]
    return [
        *losses,
        *(STEP.at(done, lineage, role) for role, done in progress.role_steps.items()),
        *(STEPS.at(total, lineage, role) for role, total in progress.role_totals.items()),
        EXAMPLES.at(progress.examples_per_s, lineage),
        *([] if progress.tokens_per_s is None else [TOKENS.at(progress.tokens_per_s, lineage)]),
        LEFT.at(progress.seconds_left, lineage),
    ]


def of_verdict(
    rows: Sequence[GenerationRow], evals: Iterable[EvalRecord], gates: GateSettings, rhi_min: float | None
) -> list[Sample]:
    """The scores of a judged generation, and which gates it passed by them."""
    scores, told = list(evals), []
    for row in rows:
        own = [score for score in scores if score.role == row.role]
        # A blend's scores come from the confirming half.
        judged = judge(
            own, gates, has_parent=row.parent_gen is not None, rhi_min=rhi_min, half=row.alpha != 1.0, roles=[row.role]
        )
        failed = {failure.gate for failure in judged.failures}
        health = [score for score in own if score.eval == RHI]
        told += [SCORE.at(score.value, row.lineage, row.role, score.eval) for score in own]
        told += [HEALTH.at(score.value, row.lineage, row.role) for score in health]
        told += [GATE.at(gate not in failed, row.lineage, row.role, gate) for gate in GATES]
        told += [GATE.at(RHI not in failed, row.lineage, row.role, RHI) for _ in health]
    return [*told, *(ACCEPTED.at(row.verdict == "accepted", row.lineage) for row in rows[:1])]


def of_growth(lineage: str, karma: KarmaState) -> list[Sample]:
    """What the lineage has earned, and what the next age takes."""
    return [KARMA.at(karma.earned, lineage), THRESHOLD.at(karma.threshold, lineage)]


def _at_rest(lineage: str) -> Sequence[Sample]:
    return [measure.at(0.0, lineage) for measure in (EXAMPLES, TOKENS, LEFT)]
