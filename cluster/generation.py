"""A generation, step by step: collect, freeze, mix, train, evaluate, judge, deploy (DESIGN section 3).

Every step is recorded before and after it runs, with its result. A run that was cut off anywhere goes on at the first
step without a result; inside training it goes on from the last checkpoint. Steps may run twice, so each is idempotent:
files are named by their content, and the judgement is one transaction that the ledger refuses to repeat differently.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cluster import data_steps as delta
from cluster.preference_data import prepare_channels, weighty_by_role
from cluster.request import GenerationRequest
from cluster.server.candidate_eval import evaluate_served
from cluster.server.client import follow_head, retire_candidate
from cluster.settings import recorded_sha
from cluster.trainer_pool import TrioRig, outcomes_by_role
from curriculum.parquet import read_examples
from ledger.clock import utc_now
from ledger.files import publish_dir
from ledger.home import Home
from ledger.journal import STEPS, RunState, Step
from ledger.metadata import CapabilitySettings, build_metadata, capabilities, capability_minimums, write_metadata
from ledger.records import CHANNEL_COLUMNS, EvalRecord, GenerationRow, HeadMove, Stop
from ledger.roles import ROLES, Role
from ledger.rules.blends import largest_that_passes
from ledger.rules.gates import Judgement, judge
from ledger.rules.stop_rule import generation_scores, stop_decision
from ledger.store import Stores
from trainers.evals.plan import plan_role
from trainers.evals.scoring import RolePlan
from trainers.health.probe import HealthPlan
from trainers.job import EngineInfo, TrioJob, TrioProgress
from trainers.reward.model import reward_model_in_use

Payload = dict[str, Any]


@dataclass
class Watcher:
    """What a run tells the outside, and how it is asked to stop."""

    say: Callable[[str], None]
    on_step: Callable[[Step], None]
    on_progress: Callable[[TrioProgress], None]
    stop: threading.Event


class GenerationRun:
    """One generation of one lineage, resumable at every step."""

    def __init__(self, home: Home, stores: Stores, rig: TrioRig, run: RunState, watcher: Watcher):
        self.home, self.rig, self.run_state, self.watcher = home, rig, run, watcher
        self.ledger, self.journal = stores.ledger, stores.journal
        self.request = GenerationRequest.from_record(run.request)
        self.settings, self.base = self.request.settings, self.request.base
        self.lineage, self.gen_id = run.lineage, run.gen_id
        self.results: dict[Step, Payload] = {}

    def run(self) -> Payload:
        """Take the remaining steps; returns the judgement's result."""
        do: Mapping[Step, Callable[[], Payload]] = {
            "collect": self.collect,
            "freeze": self.freeze,
            "mix": self.mix,
            "train": self.train,
            "evaluate": self.evaluate,
            "judge": self.judge,
            "deploy": self.deploy,
        }
        for step in STEPS:
            self.results[step] = self._once(step, do[step])
        return self.results["judge"]

    def _once(self, step: Step, do: Callable[[], Payload]) -> Payload:
        run_id = self.run_state.run_id
        known = self.journal.step_result(run_id, step)
        if known is not None:
            return known
        self.watcher.on_step(step)
        self.journal.record_step(run_id, step, "before")
        result = do()
        self.journal.record_step(run_id, step, "after", result)
        return result

    def collect(self) -> Payload:
        """What is new since the head. The parent is fixed here: it is the head of this moment."""
        parent = self.ledger.head(self.lineage)
        self.watcher.say(f"{len(self._new.delta)} new examples, {len(self._new.holdout)} held out")
        return {"parent_gen": parent, "n_delta": len(self._new.delta), "n_holdout": len(self._new.holdout)}

    def freeze(self) -> Payload:
        """The delta and its holdout as files named by their hash."""
        return dict(delta.freeze_delta(self.home, self.ledger, self.lineage, self._new))

    def mix(self) -> Payload:
        """The training set in its order; for a second channel its pairs, and weights by the reward model."""
        delta_sha = self.results["freeze"]["delta_sha"]
        channels = prepare_channels(self.home, self.request, delta_sha, self.watcher.say)
        mixed = delta.mix_with_replay(self.home, self._parent_rows(), delta_sha, self.request, channels.weights)
        return {**mixed, **channels.record}

    def train(self) -> Payload:
        """The three roles from the parent's adapters, on the devices there are."""
        placements = self.rig.prepare(self.base, self.settings, self.watcher.say)
        parents = self._parents()
        jobs = {
            placement: TrioJob(
                roles=placement.roles,
                parents={role: parents.get(role) for role in placement.roles},
                train_file=str(self.home.data_file(self.results["mix"]["train_sha"])),
                adapters_dir=str(self.home.adapters_dir),
                run_dir=str(self._run_dir / placement.name),
                seed=self.settings.seed,
                train=self.settings.train,
                lora=self.settings.lora,
                channels=self.settings.channels,
                preference_file=self._mixed_file("pref_sha"),
                rewards_file=self._mixed_file("rewards_sha"),
                health=self.settings.health,
            )
            for placement in placements
        }
        watcher = self.watcher
        done = self.rig.train(jobs, self.base, self.settings, watcher.on_progress, watcher.stop, watcher.say)
        roles: Payload = {}
        for role, (placement, outcome, whole) in outcomes_by_role(done).items():
            if outcome.held:
                held = ", ".join(f"{count} × {action}" for action, count in sorted(outcome.held.items()))
                watcher.say(f"{role}: the health gate held updates back: {held}")
            roles[role] = {
                "sha": outcome.adapter_sha,
                "steps": outcome.steps,
                "examples": outcome.examples,
                "loss_start": outcome.loss_start,
                "loss_end": outcome.loss_end,
                "held": dict(outcome.held),
                "seconds": whole.seconds,
                "placement": placement.name,
                "engine": asdict(whole.engine),
            }
        return {"roles": roles, "trained_at": utc_now()}

    def evaluate(self) -> Payload:
        """Every score of the candidate as trained."""
        adapters: dict[Role, str] = {role: self.results["train"]["roles"][role]["sha"] for role in ROLES}
        plans = self._plans()
        served = evaluate_served(
            self.home, plans, adapters, self.gen_id, self.lineage, self.base, self.settings, self.watcher.say
        )
        if served is not None:
            preferred = self._preference_records(adapters, self.home.adapters_dir)
            evals = [record.model_dump(mode="json") for record in (*served, *preferred)]
        else:
            evals = self._measure(plans, adapters, self.home.adapters_dir)
        return {"evals": evals + self._health(adapters, self.home.adapters_dir)}

    def judge(self) -> Payload:
        """The gates; between parent and child where the child fails; the stop rule; one transaction."""
        adapters: dict[Role, str] = {role: self.results["train"]["roles"][role]["sha"] for role in ROLES}
        evals = [EvalRecord.model_validate(entry) for entry in self.results["evaluate"]["evals"]]
        judgement, alpha = self._judged(evals), 1.0
        if not judgement.accepted and (blend := self._best_blend(adapters, judgement)):
            alpha, adapters, evals, judgement = blend
        rows = self._rows(adapters, evals, judgement, alpha)
        decision = stop_decision(
            [*self.ledger.judged_scores(self.lineage), generation_scores(rows)],
            self.ledger.last_stop_gen(self.lineage),
            self.settings.stop_rule,
        )
        head, stop, move = self.results["collect"]["parent_gen"], None, None
        if decision is not None:
            reason = "stop_rule" if decision.head != head else ""
            move = HeadMove(from_gen=head, to_gen=decision.head, reason=reason, at=utc_now()) if reason else None
            stop = Stop(reason=decision.reason, data_delta_shas=self._stopped_deltas(decision.generations, rows))
        elif judgement.accepted:
            move = HeadMove(from_gen=head, to_gen=self.gen_id, reason="accepted", at=utc_now())
        self._write_metadata(rows, evals)
        self.ledger.record_judgement(rows, evals, move, stop)
        return {
            "verdict": judgement.verdict,
            "reason": rows[0].reason,
            "alpha": alpha,
            "stopped": decision.reason if decision else "",
        }

    def deploy(self) -> Payload:
        """Let the server, where one runs, answer with the head; checkpoints are no longer needed."""
        for checkpoint in self._run_dir.glob("*/**/checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)
        judged = self.results["judge"]
        if judged["verdict"] == "rejected" or judged["alpha"] != 1.0:
            retire_candidate(self.home, self.gen_id)  # under its number stands nothing, or something else from now on
        return follow_head(self.home, self.ledger.head(self.lineage))

    # -- parts of the steps ----------------------------------------------------------------------------------

    @cached_property
    def _new(self) -> delta.NewData:
        return delta.collect(self.home, self.ledger, self.request, self.lineage)

    @property
    def _run_dir(self) -> Path:
        return self.home.run_dir(self.run_state.run_id)

    def _parent_rows(self) -> list[GenerationRow]:
        parent = self.results["collect"]["parent_gen"]
        return [] if parent is None else self.ledger.generation(parent, self.lineage)

    def _parents(self) -> dict[Role, str]:
        return {row.role: row.child_sha for row in self._parent_rows()}

    def _plans(self) -> list[RolePlan]:
        holdout = read_examples(self.home.data_file(self.results["freeze"]["holdout_sha"]))
        trained = read_examples(self.home.data_file(self.results["mix"]["train_sha"]))
        parent = self.results["collect"]["parent_gen"]
        earlier = delta.earlier_examples(self.home, self.ledger, self.lineage, parent)
        return [
            plan_role(
                role,
                holdout=holdout,
                earlier=earlier,
                trained_now=trained,
                settings=self.settings.eval,
                seed=self.settings.seed,
                with_base=parent is None,
            )
            for role in ROLES
        ]

    def _measure(self, plans: Sequence[RolePlan], adapters: Mapping[Role, str], adapters_dir: Path) -> list[Payload]:
        records = self.rig.evaluate(
            plans, adapters, str(adapters_dir), self.gen_id, self.base, self.settings, self.watcher.say
        )
        records += self._preference_records(adapters, adapters_dir)
        return [record.model_dump(mode="json") for record in records]

    def _preference_records(self, adapters: Mapping[Role, str], adapters_dir: Path) -> list[EvalRecord]:
        """Preference accuracy on the held-out pairs that have a weight; measured, never judged."""
        file = self._mixed_file("pref_holdout_sha")
        if file is None:
            return []
        return self.rig.measure_preferences(
            weighty_by_role(file), adapters, str(adapters_dir), self._parents(), str(self.home.adapters_dir),
            self.gen_id, self.base, self.settings, self.watcher.say,
        )  # fmt: skip

    def _mixed_file(self, name: str) -> str | None:
        """Path of a data file that the mix step froze under `name`; None if there is none."""
        sha = self.results["mix"].get(name)
        return str(self.home.data_file(sha)) if sha else None

    def _health(self, adapters: Mapping[Role, str], adapters_dir: Path) -> list[Payload]:
        """Reward health of the three roles as scores; none in a home without a reward model."""
        reward_model = reward_model_in_use(self.home)
        if reward_model is None:
            return []
        parents = self._parents()
        plans = [
            HealthPlan(
                role=role,
                child=adapters_dir / adapters[role],
                parent=self.home.adapter_dir(parents[role]) if role in parents else None,
                seed=self.settings.seed,
            )
            for role in ROLES
        ]
        self.watcher.say(f"measuring reward health with the reward model {reward_model.name[:12]}")
        records = self.rig.health(
            plans, reward_model, self.gen_id, self._run_dir / "health", self.base, self.settings, self.watcher.say
        )
        return [record.model_dump(mode="json") for record in records]

    def _judged(self, evals: Sequence[EvalRecord]) -> Judgement:
        has_parent = self.results["collect"]["parent_gen"] is not None
        rhi_min = self.settings.health.rhi_min if self.settings.health.gate else None
        return judge(evals, self.settings.gates, has_parent=has_parent, rhi_min=rhi_min)

    def _best_blend(
        self, children: Mapping[Role, str], failed: Judgement
    ) -> tuple[float, dict[Role, str], list[EvalRecord], Judgement] | None:
        """The blend with the largest alpha that passes every gate, published; None if there is none."""
        parents, interpolation = self._parents(), self.settings.interpolation
        if not parents or not interpolation.enabled:
            return None
        plans = self._plans()

        def attempt(alpha: float) -> tuple[float, dict[Role, str], list[EvalRecord], Judgement] | None:
            self.watcher.say(f"not accepted ({failed.reason}); trying parent + {alpha} (child - parent)")
            trial = self._run_dir / "blends" / f"{alpha}"
            shas = self.rig.interpolate(
                parents, children, alpha, str(self.home.adapters_dir), str(trial),
                self.base, self.settings, self.watcher.say,
            )  # fmt: skip
            evals = [EvalRecord.model_validate(entry) for entry in self._measure(plans, shas, trial)]
            if self._judged(evals).accepted:  # what nothing else keeps out has a health of its own
                evals += [EvalRecord.model_validate(entry) for entry in self._health(shas, trial)]
            judgement = self._judged(evals)
            if not judgement.accepted:
                shutil.rmtree(trial, ignore_errors=True)
                return None
            for sha in shas.values():
                publish_dir(trial / sha, self.home.adapter_dir(sha))
            return alpha, shas, evals, judgement

        return largest_that_passes(interpolation.alphas, attempt)

    def _rows(
        self, adapters: Mapping[Role, str], evals: Sequence[EvalRecord], judgement: Judgement, alpha: float
    ) -> list[GenerationRow]:
        values = {(e.role, e.eval): e.value for e in evals}
        parents, trained, mixed = self._parents(), self.results["train"], self.results["mix"]
        rows = []
        for role in ROLES:
            result = trained["roles"][role]
            info = EngineInfo(**result["engine"])
            rows.append(
                GenerationRow(
                    gen_id=self.gen_id,
                    parent_sha=parents.get(role, self.base.sha),
                    child_sha=adapters[role],
                    data_delta_sha=self.results["freeze"]["delta_sha"],
                    steps=result["steps"],
                    lr=self.settings.train.lr_of(role),
                    walltime_min=round(result["seconds"] / 60, 4),
                    loss_start=result["loss_start"],
                    loss_end=result["loss_end"],
                    eval_recall=values[role, "recall"],
                    eval_generalization=values[role, "generalization"],
                    eval_style_drift=values[role, "style_drift"],
                    role=role,
                    verdict=judgement.verdict,
                    reason=judgement.reason if alpha == 1.0 else f"{judgement.reason} at alpha {alpha}",
                    base_sha=self.base.sha,
                    config_sha=recorded_sha(self.run_state.request["settings"]),
                    seed=self.settings.seed,
                    trained_at=trained["trained_at"],
                    parent_gen=self.results["collect"]["parent_gen"],
                    holdout_sha=self.results["freeze"]["holdout_sha"],
                    train_sha=mixed["train_sha"],
                    alpha=alpha,
                    n_delta=mixed["n_delta"][role],
                    n_replay=mixed["n_replay"][role],
                    engine=info.engine,
                    device=info.device,
                    dtype=info.dtype,
                    threads=info.threads,
                    placement=result["placement"],
                    lineage=self.lineage,
                    run_id=self.run_state.run_id,
                    trained_sha=result["sha"],
                    **{name: mixed.get(name, "") for name in CHANNEL_COLUMNS},
                )
            )
        return rows

    def _stopped_deltas(self, generations: Sequence[int], rows: Sequence[GenerationRow]) -> tuple[str, ...]:
        """The deltas of both generations, and the one that collecting all of their data again would give."""
        shas = {rows[0].data_delta_sha}
        for gen_id in generations:
            if gen_id != self.gen_id:
                shas.add(self.ledger.generation(gen_id, self.lineage)[0].data_delta_sha)
        return tuple(sorted({*shas, delta.freeze_union(self.home, shas)}))

    def _write_metadata(self, rows: Sequence[GenerationRow], evals: Sequence[EvalRecord]) -> None:
        minimums = capability_minimums(CapabilitySettings(), self.settings.gates)
        train = read_examples(self.home.data_file(rows[0].train_sha))
        parent = rows[0].parent_gen
        age = 0 if parent is None else len(self.ledger.parent_chain(parent, self.lineage))
        for row in rows:
            own = [score for score in evals if score.role == row.role]
            passed = capabilities(own, minimums, min_items=1)
            talks = sum(e.role == row.role and e.stage == "conversations" for e in train)
            folder = self.home.adapter_dir(row.child_sha)
            write_metadata(folder, build_metadata(row, n_conversations=talks, passed=passed, age=age))
