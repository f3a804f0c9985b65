"""What the untouched base knows of everyday life: found out once a base, kept beside its weights.

Of what each role's prompt brings out, the first that are sure are asked of every generation, and the rest is rehearsed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.request import RunSpec
from cluster.trainer_pool import TrainerSession
from curriculum.everyday import FORMS, EverydayQuestion, Known, questions, rehearsals
from curriculum.example import Example
from ledger.files import sha256_json, write_atomic
from ledger.roles import ROLES, Role
from trainers.evals.manners import LEAST_KNOWN

logger = logging.getLogger(__name__)

FILE = "everyday.json"

_REHEARSED = 240
"""Questions beyond those that are asked whose answers are looked for in a role's prompt."""


@dataclass(frozen=True)
class Everyday:
    """What a base knows, by role."""

    asked: Mapping[Role, Sequence[EverydayQuestion]] = field(default_factory=dict)
    """What every generation is asked again."""
    rehearsed: tuple[Example, ...] = ()
    """The base's own right answers to other questions, for all roles that knew enough."""


def everyday_of(spec: RunSpec, session: TrainerSession) -> Everyday:
    """What the base of a run knows.

    The base is asked anew if the pool of questions or the settings for it have changed.
    """
    asked = spec.settings.eval
    if not asked.everyday_items:
        return Everyday()
    known = _known(spec, session)
    of_role = {role: [one.question for one in own if one.sure] for role, own in known.items()}
    knowing = [role for role in ROLES if len(known[role]) >= LEAST_KNOWN]  # else what is right may be so by chance
    return Everyday(of_role, tuple(e for role in knowing for e in rehearsals(role, known, of_role[role])))


def _known(spec: RunSpec, session: TrainerSession) -> dict[Role, list[Known]]:
    pool, asked = questions(), spec.settings.eval
    most = asked.everyday_items + (_REHEARSED if spec.settings.data.base_share else 0)
    file = spec.base.path / FILE
    key = {
        "pool_sha": pool_sha(pool), "forms": list(FORMS), "most": most,
        "items": asked.everyday_items, "tokens": asked.everyday_tokens,
    }  # fmt: skip
    if (kept := _kept(file, key, pool)) is not None:
        return kept
    known = session.everyday(pool, most)
    for role, own in known.items():
        sure = sum(one.sure for one in own)
        few = "" if sure >= LEAST_KNOWN else ", too few to tell what a generation loses of them"
        logger.info(
            "%s: the base gets %d everyday questions right; asked are %d that it gets right in each of %d forms%s",
            role, len(own), sure, 1 + len(FORMS), few,
        )  # fmt: skip
    right = {role: [[one.question.id, one.answer, one.sure] for one in own] for role, own in known.items()}
    content = {**key, "right": right}
    write_atomic(file, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    return known


def _kept(file: Path, key: Mapping[str, Any], pool: Sequence[EverydayQuestion]) -> dict[Role, list[Known]] | None:
    """What the file says under this key; None where the base was never asked so, or the file is damaged."""
    by_id = {question.id: question for question in pool}
    try:
        stored: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if {name: stored[name] for name in key} != key:
            return None
        return {
            role: [Known(by_id[name], answer + "", bool(sure)) for name, answer, sure in stored["right"][role]]
            for role in ROLES
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pool_sha(pool: Sequence[EverydayQuestion]) -> str:
    """Names a pool by its questions and what they accept."""
    return sha256_json([[question.id, question.question, *question.accepted] for question in pool])
