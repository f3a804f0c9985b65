"""The arms: Luna as she is shipped, what she is compared with, and the settings that the short form decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Way = Literal["generations", "engine", "joint", "alone"]
"""`generations`: through the coordinator, judged. `engine`: one training after another without a judgement. `joint`:
one training on all lessons from the base. `alone`: each lesson from the base."""

Replay = Literal["none", "parent"]


@dataclass(frozen=True)
class Arm:
    """One way through the lessons."""

    name: str
    what: str
    way: Way
    settings: Mapping[str, Any] = field(default_factory=dict)
    """On top of the profile's."""
    replay: Replay = "none"
    """Of an `engine` arm; generations replay as their settings say."""


_NO_REPLAY = {"data": {"replay_share": 0.0, "replay_least": 0}}
_SHORT_EXAM = {"eval": {"items": 100, "agl_items": 14, "extra_items": 0}, "blends": {"enabled": False}}
"""The smallest exam that the gates allow: the short form compares trainings, not verdicts."""


def _setting(name: str, what: str, settings: Mapping[str, Any]) -> Arm:
    return Arm(name, what, "generations", {**_SHORT_EXAM, **settings})


FULL: tuple[Arm, ...] = (
    Arm("luna", "generations with the shipped defaults", "generations"),
    Arm("no-replay", "the same training without replay", "engine", _NO_REPLAY),
    Arm("parent-replay", "replay of what the parent alone was trained on", "engine", replay="parent"),
    Arm("joint", "one training on all lessons from the base: the oracle", "joint", _NO_REPLAY),
    Arm("alone", "each lesson alone from the base", "alone", _NO_REPLAY),
    Arm(
        "trl",
        "plain TRL, one lesson after another",
        "engine",
        {**_NO_REPLAY, "train": {"engine": "trl", "kl_weight": 0.0}},
    ),
)

SHORT: tuple[Arm, ...] = (
    _setting("defaults", "the shipped defaults", {}),
    _setting("replay-0", "no replay", _NO_REPLAY),
    _setting("kl-0.1", "kl_weight 0.1", {"train": {"kl_weight": 0.1}}),
    _setting("kl-0.5", "kl_weight 0.5", {"train": {"kl_weight": 0.5}}),
    _setting("own-answers", "own_answers", {"data": {"own_answers": True}}),
    _setting("least-sure", "replay_select least_sure", {"data": {"replay_select": "least_sure"}}),
    _setting("warmup-10", "warmup_steps 10", {"train": {"warmup_steps": 10}}),
    _setting(
        "all", "kl_weight 0.1, own_answers, least_sure, warmup_steps 10",
        {
            "train": {"kl_weight": 0.1, "warmup_steps": 10},
            "data": {"own_answers": True, "replay_select": "least_sure"},
        },
    ),
)  # fmt: skip

ARMS: dict[str, Arm] = {arm.name: arm for arm in (*FULL, *SHORT)}
