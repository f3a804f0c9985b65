"""The settings of a home: a profile under `configs/`, overridden by its `luna.toml`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from curriculum.teacher.settings import TeacherSettings
from ledger.errors import LunaError
from ledger.files import sha256_json, write_atomic
from ledger.home import Home
from ledger.rules.blends import InterpolationSettings
from ledger.rules.cadence import CadenceSettings
from ledger.rules.gates import GateSettings
from ledger.rules.karma import KarmaSettings
from ledger.rules.stop_rule import StopRuleSettings
from serving.settings import ServingSettings
from trainers.config import BaseSettings, ChannelSettings, LoraSettings, RewardSettings, TrainSettings
from trainers.evals.scoring import EvalSettings
from trainers.health.index import HealthSettings

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


class DataSettings(BaseModel):
    """What goes into a generation's training set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    replay_k: int = Field(100, ge=0)
    """Examples of the parent's training data mixed in for each role, against forgetting; 0 turns replay off."""
    holdout_percent: int = Field(20, ge=1, le=90)
    """Share of new examples kept from training, by the hash of the example, in percent."""


class Settings(BaseModel):
    """Everything that decides a generation, resolved."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: str = "smol"
    """Name of a file under `configs/`, which gives the values that `luna.toml` does not."""
    seed: int = Field(1, ge=0)
    """All random choices draw from this number."""
    base: BaseSettings = BaseSettings()
    lora: LoraSettings = LoraSettings()
    train: TrainSettings = TrainSettings()
    channels: ChannelSettings = ChannelSettings()
    data: DataSettings = DataSettings()
    eval: EvalSettings = EvalSettings()
    gates: GateSettings = GateSettings()
    interpolation: InterpolationSettings = InterpolationSettings()
    stop_rule: StopRuleSettings = StopRuleSettings()
    reward: RewardSettings = RewardSettings()
    health: HealthSettings = HealthSettings()
    serving: ServingSettings = ServingSettings()
    teacher: TeacherSettings = TeacherSettings()
    karma: KarmaSettings = KarmaSettings()
    cadence: CadenceSettings = CadenceSettings()

    def sha(self) -> str:
        """The ledger's `config_sha`: of what decides a generation, which the tables left out here do not.

        With examples alone the channels decide nothing, and the SHA is what it was before there were any. Health may
        then decide the verdict, never the bytes; its settings stand in the details of the score itself.
        """
        beside = {"reward", "serving", "teacher", "karma", "cadence"}
        if self.channels.mode == "sft":
            beside |= {"channels", "health"}
        return sha256_json(self.model_dump(mode="json", exclude=beside))

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        if self.channels.mode == "dual" and self.train.engine == "trl":
            raise ValueError('channels.mode = "dual" needs the fused engine; set train.engine = "auto"')
        return self


def profiles() -> list[str]:
    """Names of the shipped profiles."""
    return sorted(path.stem for path in CONFIGS.glob("*.toml"))


def load_settings(path: Path, overrides: dict[str, Any] | None = None) -> Settings:
    """Read a profile or a `luna.toml` (whose `profile` is read first), with overrides on top.

    Raises:
        LunaError: no such file or profile, broken TOML, an unknown key, a value of the wrong type or range.
    """
    own = _read_toml(path)
    profile = str((overrides or {}).get("profile", own.get("profile", "")))
    values: dict[str, Any] = {}
    if profile:
        values = _read_toml(_profile_path(profile))
    values = _merged(_merged(values, own), overrides or {})
    if path.parent == CONFIGS:
        values.setdefault("profile", path.stem)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise LunaError(f"{path}: {_explain(error)}") from error


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


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LunaError(f"there is no settings file {path}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LunaError(f"{path} is not valid TOML: {error}.") from error


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


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
