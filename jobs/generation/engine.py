"""A generation's own model in this process, without Ray: for commands that ask it something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.errors import LunaError
from ledger.home import Home
from ledger.records import GenerationRow
from ledger.store import Ledger

if TYPE_CHECKING:
    from trainers.job import Engine


def generation_rows(home: Home, gen_id: int | None) -> list[GenerationRow]:
    """The rows of a generation; None means the head.

    Raises:
        LunaError: there is no such generation, or no head yet.
    """
    with Ledger.open(home) as ledger:
        chosen = ledger.head() if gen_id is None else gen_id
        if chosen is None:
            raise LunaError(
                "the lineage has no accepted generation yet; name one, or raise it with `luna generation run`."
            )
        return ledger.generation(chosen)


def open_generation_engine(home: Home, row: GenerationRow) -> Engine:
    """The engine over a generation's base for adapters of its shape, on this process's device."""
    from cluster.settings import settings_of
    from trainers.engines import open_engine
    from trainers.models.adapters import lora_of
    from trainers.models.frozen import Base
    from trainers.runtime import default_device

    settings = settings_of(home)
    base = Base(settings.base.source, row.base_sha, home.base_dir(row.base_sha))
    if not base.path.is_dir():
        raise LunaError(f"the base {row.base_sha[:12]} of G{row.gen_id} is missing under {home.bases_dir}; restore it.")
    train = settings.train
    if row.engine == "sharded":  # by its plan: the base fits no card whole
        train = train.model_copy(update={"engine": row.engine})
    return open_engine(base, train, lora_of(home.adapter_dir(row.child_sha)), default_device())
