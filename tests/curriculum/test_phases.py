"""The phases of a mind that starts empty."""

from collections import Counter

import pytest

from curriculum.example import scoring_of
from curriculum.phases import PHASE_TOTALS, build_phase, load_words, vocabulary
from ledger.errors import LunaError


def test_the_vocabulary_has_3000_words_each_in_one_category():
    listed = Counter(word for words in load_words().categories.values() for word in words)
    assert len(vocabulary()) >= 3000
    assert [word for word, count in listed.items() if count > 1] == []


@pytest.mark.parametrize("phase", [0, 1, 2])
def test_a_phase_has_its_default_size_and_different_inputs(phase):
    examples = build_phase(phase, "logical", seed=1)
    assert len(examples) == PHASE_TOTALS[phase]
    assert len({example.input for example in examples}) == len(examples)
    assert {example.stage for example in examples} == {"fundamentals"}


@pytest.mark.parametrize("phase", [0, 1, 2])
def test_a_phase_scales_in_the_same_proportions(phase):
    whole = Counter(example.category for example in build_phase(phase, "creative", seed=1))
    tenth = Counter(example.category for example in build_phase(phase, "creative", 1, PHASE_TOTALS[phase] // 10))
    assert all(abs(tenth[category] - count / 10) <= 1 for category, count in whole.items())


def test_equal_seeds_give_equal_phases():
    assert build_phase(2, "logical", 5, 100) == build_phase(2, "logical", 5, 100)
    assert build_phase(2, "logical", 5, 100) != build_phase(2, "logical", 6, 100)


def test_mechanical_answers_follow_from_their_prompts():
    closing = {"(": ")", "[": "]", "{": "}", "<": ">"}
    for example in build_phase(0, "logical", seed=2):
        command, _, rest = example.input.partition(": ")
        words = rest.split()
        assert scoring_of(example) == "exact"
        if command == "repeat":
            assert example.output == rest
        elif command == "reverse":
            assert example.output.split() == words[::-1]
        elif command == "close":
            assert example.output.split() == [closing[word] for word in words if word in closing][::-1]
        else:
            period = next(p for p in (2, 3) if all(words[i] == words[i - p] for i in range(p, len(words))))
            assert example.output == words[len(words) - period]


def test_opposites_and_synonyms_are_taught_in_both_directions():
    answers = {example.input: example.output for example in build_phase(1, "logical", seed=1)}
    asked = {text for text in answers if text.startswith("The opposite of")}
    antonyms = dict(load_words().antonyms) | {b: a for a, b in load_words().antonyms}
    assert len(asked) > 50
    assert all(text.removeprefix("The opposite of ").rstrip(":") in antonyms for text in asked)


@pytest.mark.parametrize(("phase", "named"), [(3, "importing"), (4, "no phase 4"), (-1, "no phase -1")])
def test_phases_that_are_not_generated_say_what_to_do(phase, named):
    with pytest.raises(LunaError, match=named):
        build_phase(phase, "logical", 1)


def test_more_than_the_material_holds_is_refused():
    with pytest.raises(LunaError, match="ask for fewer"):
        build_phase(1, "logical", 1, 100_000)
