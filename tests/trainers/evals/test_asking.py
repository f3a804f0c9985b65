"""An answer counts if it comes whole, with its end; only what one forward leaves open is decoded."""

from __future__ import annotations

import string

import pytest
import torch

from curriculum.example import make_example
from curriculum.render import render_prompt
from curriculum.transcript import LengthSettings
from ledger.home import Home
from tests.trainers.builders import CPU, sums, tiny_base
from tests.trainers.evals.builders import Table
from trainers.evals.asking import Asking, mark
from trainers.evals.models import Speaker
from trainers.generator import Answer
from trainers.lean.generator import LeanGenerator
from trainers.lean.model import LeanModel
from trainers.models.frozen import load_base

CLOSED = Asking("logical", {"agl/comparison"}, 12, LengthSettings())


def prompt_of(item):
    return render_prompt("logical", item.input)


def test_only_what_the_forward_does_not_settle_is_decoded():
    items = sums("logical", 6)
    table = Table({prompt_of(item): item.output for item in items[:4]})
    found = mark(Speaker(table, "logical"), items, CLOSED)
    assert [one.right for one in found] == [True] * 4 + [False] * 2
    assert table.decoded == [prompt_of(item) for item in items[4:]]
    assert table.room == 13, "twelve tokens and the end"


def test_an_answer_in_other_tokens_counts_if_it_ended():
    items = sums("logical", 3)
    texts = [Answer(f" {items[0].output}\n", True), Answer(items[1].output, False), Answer("no", True)]
    table = Table({prompt_of(item): text for item, text in zip(items, texts, strict=True)})
    assert [one.right for one in mark(Speaker(table, "logical"), items, CLOSED)] == [True, False, False]


def test_open_items_are_never_decoded():
    table = Table()
    found = mark(Speaker(table, "logical"), sums("logical", 3), Asking("logical", (), 12, LengthSettings()))
    assert [one.right for one in found] == [None] * 3
    assert table.decoded == []


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def generator(tmp_path_factory, request):
    """A model that says letters and never ends."""
    base = tiny_base(Home(tmp_path_factory.mktemp("asking") / "home").create())
    model, tokenizer = load_base(base.path, request.param, CPU)
    lean = LeanModel(model)
    letters = tokenizer(string.ascii_letters, add_special_tokens=False)["input_ids"]
    lean.output = torch.zeros_like(lean.output).index_copy(0, torch.tensor(letters), lean.output[letters])
    return LeanGenerator(lean, tokenizer, None, {})


def test_an_answer_after_which_the_model_goes_on_does_not_pass(generator):
    """Its text equals the answer where it is cut off."""
    questions = [f"What is {n}?" for n in range(12)]
    said = generator.generate("base", [render_prompt("logical", question) for question in questions], 4)
    items = [
        make_example(
            role="logical", stage="fundamentals", category="agl/comparison", kind="pure", input=asked, output=one.text
        )
        for asked, one in zip(questions, said, strict=True)
    ]
    assert {(len(one.text), one.ended) for one in said} == {(4, False)}
    asking = Asking("logical", {"agl/comparison"}, 4, LengthSettings())
    assert {one.right for one in mark(Speaker(generator, "base"), items, asking)} == {False}


def test_what_the_model_says_itself_is_greedy_and_anything_else_is_not(generator):
    prompts = [render_prompt("logical", f"What is {n}?") for n in range(8)]
    said = generator.generate("base", prompts, 6)
    for prompt, one in zip(prompts, said, strict=True):
        cut = generator.count(prompt) + 6
        pairs = [(prompt, one.text), (prompt, one.text[:5] + "?")]
        assert [own.greedy for own in generator.likelihoods("base", pairs, cut)] == [True, False]
        assert not generator.likelihoods("base", pairs)[0].greedy, "its end does not come"
