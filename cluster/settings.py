"""The settings of a home: a profile under `configs/`, overridden by its `luna.toml`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings as LayeredSettings
from pydantic_settings import PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from curriculum.teacher.settings import TeacherSettings
from curriculum.transcript import LengthSettings
from ledger.errors import LunaError
from ledger.files import read_toml, sha256_json, write_atomic
from ledger.home import Home
from ledger.roles import ROLES
from ledger.rules.blends import BlendSettings
from ledger.rules.cadence import CadenceSettings
from ledger.rules.gates import GateSettings
from ledger.rules.karma import KarmaSettings
from ledger.rules.stop_rule import StopRuleSettings
from serving.settings import ServingSettings
from trainers.config import (
    ChannelSettings,
    FrozenModelSettings,
    LoraSettings,
    RewardSettings,
    ShardedSettings,
    TrainSettings,
)
from trainers.evals.settings import EvalSettings
from trainers.health.settings import HealthSettings

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

RENAMED_SETTINGS: dict[str, str] = {
    "train.rows": "train.batch_size",
    "train.accumulation": "train.gradient_accumulation_steps",
    "train.clip": "train.max_grad_norm",
    "train.beta2": "train.adam_beta2",
    "reward.hidden": "reward.hidden_size",
    "interpolation": "blends",
    "serving.adapters_in_batch": "serving.max_loras",
    "serving.cpu_cache_gib": "serving.cpu_kv_cache_gib",
    "serving.generations": "serving.loaded_generations",
    "serving.gpu_share": "serving.gpu_memory_utilization",
    "serving.max_rank": "serving.max_lora_rank",
    "serving.max_waiting": "serving.max_concurrent_requests",
}
"""Old dotted name -> the name it has now. A `luna.toml` with an old one is refused, a recorded request is upgraded."""

_CLIENT_WAITS = "leave it out; the `openai` client decides how long it waits between tries"
_ONE_LENGTH = "set text.max_tokens, the one maximum for training, evaluation and serving"
_ANSWER_LENGTH = "set text.answer_tokens, what is kept free for an answer"
REMOVED_SETTINGS: dict[str, str] = {
    "data.replay_k": "replay is a share of the rows now, see data.replay_share and data.replay_least",
    "gates.probes": "leave it out, a style score rests on all tone probes, see gates.style_probes_min",
    "serving.answer_tokens": _ANSWER_LENGTH,
    "serving.context_turns": "leave it out, as many exchanges are read as text.max_tokens has room for",
    "serving.default_max_tokens": _ANSWER_LENGTH,
    "serving.max_model_len": _ONE_LENGTH,
    "serving.reward_batch": "the reward model batches by itself",
    "serving.reward_batches": "the reward model batches by itself",
    "serving.reward_queue": "the queue of answers to score has a fixed length",
    "serving.reward_replicas": "one copy of the reward model serves all",
    "serving.reward_wait_ms": "the reward model batches by itself",
    "teacher.backoff_s": _CLIENT_WAITS,
    "teacher.max_wait_s": _CLIENT_WAITS,
    "train.max_tokens": _ONE_LENGTH,
}
"""Dotted name of a setting that is gone -> what to do instead, as a clause. Dropped from a recorded request."""

_BEFORE_THERE_WAS: dict[str, Any] = {
    "train.child_lr_share": 1.0,
    "train.kl_weight": 0.0,
    "train.least_loss": None,
    "data.replay_select": "uniform",
    "data.base_share": 0.0,
    "data.own_answers": False,
}
"""Dotted name of a setting -> what a generation did that was recorded before there was it, whatever its default."""

_OUTSIDE_A_GENERATION = frozenset({"reward", "serving", "teacher", "karma", "cadence", "cluster"})
"""Tables that decide nothing of what a generation is."""


class DataSettings(BaseModel):
    """What goes into a generation's training set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    replay_share: float = Field(0.25, ge=0, le=0.5)
    """Share of each role's rows that repeats what the whole line was trained on, against forgetting; 0: no replay."""
    replay_least: int = Field(100, ge=0)
    """Rows that a short training replays nevertheless, but never more than half of its rows."""
    replay_select: Literal["uniform", "least_sure"] = "uniform"
    """What is replayed: rows drawn evenly from the whole line, or half of them so and half those, of four times as
    many, whose answers the parent finds least likely."""
    base_share: float = Field(0.4, ge=0, le=1)
    """Share, of the rows that are replayed, in which the base repeats its own right answers to everyday questions, so
    that it keeps what it could do. A first generation repeats each once, in up to half of its rows. 0: none."""
    own_answers: bool = False
    """Replay open items with the parent's own answer in place of the recorded one; closed ones keep theirs."""
    holdout_percent: int = Field(20, ge=1, le=90)
    """Share of new examples kept from training, in percent."""
    conversations: bool = True
    """Learn from what was said to Luna as well: answers that were liked or corrected."""
    fill: bool = True
    """Take examples of a role's recipe where its new data is too little for the gates, and everyday lessons for a
    lineage's first generation; the log says how many."""


class ClusterSettings(BaseModel):
    """How nodes that do not see the home come to its files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: str = ""
    """Where such nodes and the home exchange files by content: a folder that all see, or an address such as
    s3://bucket/luna. Empty: through Ray's object store."""
    cache_gib: int = Field(50, ge=1)
    """What such a node keeps of it between generations, in GiB; what was not used for longest is dropped."""


class Settings(BaseModel):
    """Everything that decides a generation, resolved."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: str = "smol"
    """Name of a file under `configs/`, which gives the values that `luna.toml` does not."""
    seed: int = Field(1, ge=0)
    """All random choices draw from this number."""
    base: FrozenModelSettings = FrozenModelSettings()
    text: LengthSettings = LengthSettings()
    lora: LoraSettings = LoraSettings()
    train: TrainSettings = TrainSettings()
    channels: ChannelSettings = ChannelSettings()
    data: DataSettings = DataSettings()
    eval: EvalSettings = EvalSettings()
    gates: GateSettings = GateSettings()
    blends: BlendSettings = BlendSettings()
    stop_rule: StopRuleSettings = StopRuleSettings()
    reward: RewardSettings = RewardSettings()
    health: HealthSettings = HealthSettings()
    serving: ServingSettings = ServingSettings()
    teacher: TeacherSettings = TeacherSettings()
    karma: KarmaSettings = KarmaSettings()
    cadence: CadenceSettings = CadenceSettings()
    cluster: ClusterSettings = ClusterSettings()

    def on_shards(self, sharded: ShardedSettings | None) -> Settings:
        """The settings of a run whose plan chose the sharded engine; None: these."""
        if sharded is None:
            return self
        train = self.train.model_copy(update={"engine": "sharded", "sharded": sharded})
        return self.model_copy(update={"train": train})

    def sha(self) -> str:
        """The ledger's `config_sha` of a generation under these settings."""
        return recorded_sha(self.model_dump(mode="json"))

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        if self.channels.mode == "dual" and self.train.engine == "trl":
            raise ValueError('channels.mode = "dual" needs the fused engine; set train.engine = "auto"')
        return self


def profiles() -> list[str]:
    """Names of the shipped profiles."""
    return sorted(path.stem for path in CONFIGS.glob("*.toml"))


def recorded_sha(settings: Mapping[str, Any]) -> str:
    """The ledger's `config_sha` of settings under the names that they were recorded with: of what decides a generation.

    With examples alone the channels decide nothing, and the SHA is what it was before there were any. Health may then
    decide the verdict, never the bytes; its settings stand in the details of the score itself.
    """
    outside = _OUTSIDE_A_GENERATION
    if settings.get("channels", {}).get("mode", "sft") == "sft":
        outside |= {"channels", "health"}
    return sha256_json({name: value for name, value in settings.items() if name not in outside})


def upgrade_recorded(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that an earlier version recorded, under today's names. Take :func:`recorded_sha` before."""
    upgraded = copy.deepcopy(settings)
    if "text" not in upgraded and isinstance(longest := upgraded.get("train", {}).get("max_tokens"), int):
        # What had room beside its answer then has room for its prompt alone now: it is trained uncut as it was.
        answer = min(longest, LengthSettings().answer_tokens)
        upgraded["text"] = {"max_tokens": max(16, longest + answer), "answer_tokens": answer}
    for old, new in (*RENAMED_SETTINGS.items(), *((name, None) for name in REMOVED_SETTINGS)):
        table, name = _table_of(upgraded, old)
        if table is None or name not in table:
            continue
        value = table.pop(name)
        if new is not None:
            target, new_name = _table_of(upgraded, new, create=True)
            if target is not None:
                target.setdefault(new_name, value)
    for dotted, value in _BEFORE_THERE_WAS.items():
        table, name = _table_of(upgraded, dotted, create=True)
        if table is not None:
            table.setdefault(name, value)
    return upgraded


def load_settings(path: Path, overrides: dict[str, Any] | None = None) -> Settings:
    """Read a profile or a `luna.toml` over the profile that it names, with overrides on top.

    Raises:
        LunaError: no such file or profile, broken TOML, an unknown or old key, a value of the wrong type or range.
    """
    values = _layered(path, overrides or {})
    if path.parent == CONFIGS:
        values.setdefault("profile", path.stem)
    if old := _old_names(values):
        raise LunaError(f"{path}: {'; '.join(old)}.")
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise LunaError(f"{path}: {_explain(error)}") from error
    if found := contradictions(settings):
        raise LunaError(f"{path}: {'; '.join(found)}.")
    return settings


def contradictions(settings: Settings) -> list[str]:
    """Settings of which no generation could come, a clause for each pair. Pure.

    Asked where settings are read, not where a record of a run is: what has been trained must load for good.
    """
    train, asked, needed = settings.train, settings.eval, settings.gates.min_items
    cut = train.gradient_accumulation_steps
    found = []
    if asked.items < needed:
        found.append(
            f"eval.items = {asked.items} is less than gates.min_items = {needed}, so that every generation would be "
            f"rejected; set eval.items to {needed} or more, or gates.min_items lower"
        )
    uneven = sorted({size for role in ROLES if (size := train.batch_size_of(role)) % cut})
    if train.engine == "trl" and uneven:
        found.append(
            f"train.batch_size = {uneven[0]} cannot be cut into train.gradient_accumulation_steps = {cut} equal parts, "
            "which the trl engine needs; make the one a multiple of the other"
        )
    for name, value in (("kl_weight", train.kl_weight), ("least_loss", train.least_loss)):
        if train.engine == "trl" and value and name in train.model_fields_set:
            found.append(f'train.{name} = {value} needs the fused engine; set it to 0, or train.engine = "auto"')
    if train.engine == "trl" and train.gradient_checkpointing:
        found.append('train.gradient_checkpointing needs the fused engine; leave it out, or set train.engine = "auto"')
    if train.engine == "trl" and train.quantize != "none":
        found.append(
            f'train.quantize = "{train.quantize}" needs the fused engine; set it to "none", or train.engine = "auto"'
        )
    if train.engine == "sharded" and train.quantize != "none":
        found.append(f'train.quantize = "{train.quantize}" needs the fused engine; set it to "none"')
    return found


def settings_of(home: Home, overrides: dict[str, Any] | None = None) -> Settings:
    """The settings of a home that `luna init` has made."""
    if not home.settings_file.exists():
        raise LunaError(f"{home.root} is not a Luna home (no luna.toml); run `luna init` or name another with --home.")
    return load_settings(home.settings_file, overrides)


def write_settings(home: Home, profile: str, overrides: dict[str, Any] | None = None) -> None:
    """Write a sparse `luna.toml` that names the profile and nothing that it already says."""
    _profile_path(profile)
    write_atomic(home.settings_file, tomli_w.dumps({"profile": profile, **(overrides or {})}))


def _profile_path(profile: str) -> Path:
    path = CONFIGS / f"{profile}.toml"
    if profile not in profiles():
        raise LunaError(f"there is no profile {profile!r}; use one of {', '.join(profiles())}.")
    return path


class _TomlFile(TomlConfigSettingsSource):
    """One TOML file; what is wrong with it is told as a sentence."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        return read_toml(Path(file_path))


def _layered(path: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """What a command says over a file over the profile that one of them names; not checked yet."""
    if not path.is_file():
        raise LunaError(f"there is no settings file {path}.")
    profile = str(overrides.get("profile", _TomlFile(LayeredSettings, path)().get("profile", "")))
    files = [_profile_path(profile), path] if profile else [path]

    class Layers(LayeredSettings):
        model_config = SettingsConfigDict(extra="allow", case_sensitive=True)

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[LayeredSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, _TomlFile(settings_cls, files, deep_merge=True)

    return Layers(**overrides).model_extra or {}


def _old_names(values: dict[str, Any]) -> list[str]:
    """A clause for each setting that has another name now, or none."""
    told = {old: f"{old} is now {new}" for old, new in RENAMED_SETTINGS.items()}
    told |= {old: f"{old} is gone: {advice}" for old, advice in REMOVED_SETTINGS.items()}
    found = []
    for old, clause in told.items():
        table, name = _table_of(values, old)
        if table is not None and name in table:
            found.append(clause)
    return found


def _table_of(values: dict[str, Any], dotted: str, create: bool = False) -> tuple[dict[str, Any] | None, str]:
    """(the table that a dotted name lies in, its own name); None where there is no such table."""
    *tables, name = dotted.split(".")
    table: Any = values
    for part in tables:
        table = table.setdefault(part, {}) if create else table.get(part)
        if not isinstance(table, dict):
            return None, name
    return table, name


def _explain(error: ValidationError) -> str:
    """One clause a mistake: where, what was found, what is allowed."""
    clauses: dict[str, str] = {}
    for mistake in error.errors():
        # Where a value may be of two types, pydantic adds the type to the place and complains once for each.
        names = [str(part) for part in mistake["loc"] if part != "int" and not str(part).startswith("dict[")]
        where = ".".join(names) or "settings"
        if mistake["type"] == "extra_forbidden":
            clause = f"unknown key {where}; remove it or correct its spelling"
        else:
            clause = f"{where} = {mistake['input']!r}: {mistake['msg'].removeprefix('Value error, ').lower()}"
        clauses.setdefault(where, clause)
    return "; ".join(clauses.values()) + "."
