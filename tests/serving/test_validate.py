"""Adapters that vLLM would serve wrongly, or die of, are refused before it hears of them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ledger.errors import LunaError
from ledger.files import sha256_file
from ledger.metadata import CONFIG_FILE, MODEL_FILE
from serving.engines.validate import base_shapes, check_adapter
from serving.engines.vllm import zero_adapter
from tests.serving.builders import loud_adapter, site_shapes
from tests.trainers.builders import LORA, make_home, tiny_base


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("validate"))


@pytest.fixture(scope="module")
def base(home):
    return base_shapes(tiny_base(home).path)


@pytest.fixture
def good(home, tmp_path):
    sha = loud_adapter(home, site_shapes(home), 1)
    return shutil.copytree(home.adapter_dir(sha), tmp_path / sha)


def renamed(folder):
    """The folder under the hash that its weights have now, so that only the tested fault is left."""
    return folder.rename(folder.with_name(sha256_file(folder / MODEL_FILE)))


def changed(folder, change):
    tensors = load_file(folder / MODEL_FILE)
    change(tensors)
    save_file(tensors, folder / MODEL_FILE)
    return renamed(folder)


def test_an_adapter_of_this_base_and_the_zero_adapter_pass(good, base, tmp_path):
    check_adapter(good, base, LORA.rank)
    zero = zero_adapter(tmp_path / "zero", base)
    check_adapter(zero, base, LORA.rank)
    assert zero_adapter(tmp_path / "zero", base) == zero
    assert not any(value.any() for value in load_file(zero / MODEL_FILE).values())


def test_a_missing_folder_config_or_weights_file_is_named(good, base, tmp_path):
    with pytest.raises(LunaError, match="no adapter at"):
        check_adapter(tmp_path / "nowhere", base, 8)
    (good / MODEL_FILE).unlink()
    with pytest.raises(LunaError, match=MODEL_FILE):
        check_adapter(good, base, 8)
    (good / CONFIG_FILE).write_text("{")
    with pytest.raises(LunaError, match="not valid JSON"):
        check_adapter(good, base, 8)


def test_a_flipped_byte_is_noticed(good, base):
    data = bytearray((good / MODEL_FILE).read_bytes())
    data[-1] ^= 1
    (good / MODEL_FILE).write_bytes(data)
    with pytest.raises(LunaError, match="was changed"):
        check_adapter(good, base, 8)


def test_a_truncated_file_is_named(good, base):
    (good / MODEL_FILE).write_bytes((good / MODEL_FILE).read_bytes()[:-100])
    with pytest.raises(LunaError, match="broken"):
        check_adapter(renamed(good), base, 8)


def test_a_rank_beyond_the_engines_room_or_unlike_the_tensors_is_refused(good, base):
    with pytest.raises(LunaError, match="rank 8, the engine has room for 4"):
        check_adapter(good, base, 4)
    config = json.loads((good / CONFIG_FILE).read_text())
    (good / CONFIG_FILE).write_text(json.dumps(config | {"r": 4}))
    with pytest.raises(LunaError, match="its rank is not 4"):
        check_adapter(good, base, 8)


def test_an_adapter_of_another_base_is_refused(good, base):
    narrow = {name: tuple(n // 2 for n in shape) for name, shape in base.items()}
    with pytest.raises(LunaError, match="does not fit this base"):
        check_adapter(good, narrow, 8)
    shallow = {name: shape for name, shape in base.items() if ".layers.4." not in name}
    with pytest.raises(LunaError, match="this base lacks"):
        check_adapter(good, shallow, 8)


def test_values_that_are_not_finite_are_refused(good, base):
    def spoil(tensors):
        tensors[sorted(tensors)[3]][0, 0] = torch.nan

    with pytest.raises(LunaError, match="not finite"):
        check_adapter(changed(good, spoil), base, 8)


def test_half_a_pair_and_foreign_tensors_are_refused(good, base):
    def halve(tensors):
        del tensors[next(name for name in tensors if "lora_B" in name)]

    with pytest.raises(LunaError, match="only one of two"):
        check_adapter(changed(good, halve), base, 8)


def test_a_module_that_the_config_does_not_name_is_refused(good, base):
    config = json.loads((good / CONFIG_FILE).read_text())
    (good / CONFIG_FILE).write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
    with pytest.raises(LunaError, match="does not name"):
        check_adapter(good, base, 8)
