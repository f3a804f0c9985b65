"""The everyday questions that the untouched base gets right, asked once a base and kept beside its weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.request import RunSpec
from cluster.trainer_pool import TrainerSession
from curriculum.everyday import EverydayQuestion, questions
from ledger.files import sha256_json, write_atomic
from ledger.roles import ROLES, Role
from trainers.evals.manners import LEAST_KNOWN

logger = logging.getLogger(__name__)

FILE = "everyday.json"


def everyday_of(spec: RunSpec, session: TrainerSession) -> dict[Role, list[EverydayQuestion]]:
    """What each role is asked of what its base gets right.

    The base is asked anew if the pool of questions or the settings for it have changed.
    """
    pool, asked = questions(), spec.settings.eval
    if not asked.everyday_items:
        return {}
    file = spec.base.path / FILE
    key = {"pool_sha": pool_sha(pool), "items": asked.everyday_items, "tokens": asked.everyday_tokens}
    if (kept := _kept(file, key, pool)) is not None:
        return kept
    right = session.everyday(pool)
    for role, own in right.items():
        few = "" if len(own) >= LEAST_KNOWN else ", too few to tell what a generation loses of them"
        logger.info("%s: the base gets %d everyday questions right%s", role, len(own), few)
    content = {**key, "right": {role: [question.id for question in own] for role, own in right.items()}}
    write_atomic(file, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    return right


def _kept(
    file: Path, key: Mapping[str, Any], pool: Sequence[EverydayQuestion]
) -> dict[Role, list[EverydayQuestion]] | None:
    """What the file says under this key; None where the base was never asked so, or the file is damaged."""
    by_id = {question.id: question for question in pool}
    try:
        stored: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if {name: stored[name] for name in key} != key:
            return None
        return {role: [by_id[name] for name in stored["right"][role]] for role in ROLES}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pool_sha(pool: Sequence[EverydayQuestion]) -> str:
    """Names a pool by its questions and what they accept."""
    return sha256_json([[question.id, question.question, *question.accepted] for question in pool])
