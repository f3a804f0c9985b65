"""Training and evaluation read texts of any length at the cost of `max_tokens`, and a token's name in one as text."""

from __future__ import annotations

import asyncio
import time

import pytest
import torch

from curriculum.example import make_example
from curriculum.preferences.pairs import make_preference
from curriculum.transcript import LengthSettings
from ledger.home import Home
from serving.engines.transformers import TransformersEngine
from serving.settings import ServingSettings
from tests.trainers.builders import CPU, tiny_base
from trainers.data import tokenise, tokenise_pair
from trainers.evals.asking import Asking, mark
from trainers.evals.models import Speaker
from trainers.evals.preferences import pair_likelihoods
from trainers.lean.generator import LeanGenerator
from trainers.lean.model import LeanModel
from trainers.models.frozen import load_base

LENGTHS = LengthSettings(max_tokens=300, answer_tokens=100)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_base(Home(tmp_path_factory.mktemp("lengths") / "home").create())


@pytest.fixture(scope="module")
def generator(base):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, tokenizer = load_base(base.path, torch.float32, CPU)
    yield LeanGenerator(LeanModel(model), tokenizer, None, {})
    torch.set_num_threads(threads)


def example(number, output, **more):
    text = {"input": f"What is part {number}?", "output": output, **more}
    return make_example(role="logical", stage="conversations", category="imported", kind="hybrid", **text)


class Watched:
    """A generator that keeps the rows that are asked for."""

    def __init__(self, generator):
        self.generator, self.rows = generator, []

    def count(self, prompt):
        return self.generator.count(prompt)

    def likelihoods(self, voice, pairs, max_tokens=None):
        from trainers.generator import row_ids

        self.rows += [row_ids(self.generator.tokenizer, prompt, answer, max_tokens) for prompt, answer in pairs]
        return self.generator.likelihoods(voice, pairs, max_tokens)


def test_an_evaluation_scores_the_row_that_is_trained(generator):
    long = example(
        99, "All of it: " + "and then the next part; " * 100, context="User: " + "word " * 90 + "\nLuna: So."
    )
    items = [long, *(example(n, f"Part {n} holds part {n + 1}.") for n in range(5))]
    watched = Watched(generator)
    mark(Speaker(watched, "base"), items, Asking("logical", (), 12, LENGTHS))
    for number, item in enumerate(items):
        row = tokenise(generator.tokenizer, item, LENGTHS)
        assert watched.rows[number] == (list(row.tokens), row.prompt_len)
        assert len(row.tokens) <= LENGTHS.max_tokens
    pair = make_preference(
        role="logical", prompt=long.input, context=long.context, chosen=long.output, rejected="No.", margin=1.0,
        origin="imported",
    )  # fmt: skip
    chosen, rejected = tokenise_pair(generator.tokenizer, pair, LENGTHS)
    (likelihood,) = pair_likelihoods(generator, "base", [pair], LENGTHS)
    assert likelihood.chosen == pytest.approx(likelihood.chosen_mean * (len(chosen.tokens) - chosen.prompt_len))
    assert likelihood.rejected == pytest.approx(likelihood.rejected_mean * len("No.\0"))
    assert len(chosen.tokens) == LENGTHS.max_tokens > len(rejected.tokens)


@pytest.mark.slow
@pytest.mark.parametrize("letters", [1_000, 100_000])
def test_one_long_answer_costs_an_evaluation_a_little_and_not_fifty_times_as_much(generator, letters):
    """A report of users: one answer of 4,000 letters among forty short ones took fifty times as long."""
    short = [example(number, f"Part {number} holds part {number + 1}.") for number in range(40)]
    long = example(99, "All of it, in order: " + "and then the next part; " * (letters // 24))

    def seconds(items):
        began = time.perf_counter()
        mark(Speaker(generator, "base"), items, Asking("logical", (), 12, LengthSettings()))
        return time.perf_counter() - began

    seconds(short[:8])
    plain = min(seconds(short) for _ in range(2))
    assert seconds([*short, long]) < 6 * plain


@pytest.mark.parametrize("text", ["What does {} mean?", "{}", "User: {}\nLuna: {}"])
def test_a_tokens_name_in_a_text_is_text_for_every_engine(base, generator, text):
    tokenizer = generator.tokenizer
    end = tokenizer.eos_token
    quoted = text.format(*[end] * text.count("{}"))
    row = tokenise(
        tokenizer, example(1, f"The mark {end} ends a text.", input=quoted, context=f"User: {quoted}\nLuna: A")
    )
    assert [place for place, token in enumerate(row.tokens) if token == tokenizer.eos_token_id] == [len(row.tokens) - 1]
    engine = TransformersEngine(base.path, ServingSettings(dtype="float32"), lambda engine: engine)

    async def served():
        await engine.start()
        ids = await engine.tokenise(quoted)
        engine.stop()
        return ids

    assert tokenizer.eos_token_id not in asyncio.run(served())
