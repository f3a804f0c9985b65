"""Prompts kept by hand and what is found in their answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum.agl.solve import solve
from curriculum.regression import Outcome, RegressionPrompt, problems, prompts_sha, read_regression_prompts, word_diff
from ledger.errors import LunaError

PROMPT = RegressionPrompt(id="a", role="logical", prompt="?", must=("one  two",), must_not=("Bad",))


def test_the_shipped_prompts_are_fifteen_and_each_asks_for_something():
    found = read_regression_prompts()
    assert len(found) == 15
    assert {prompt.role for prompt in found} == {"creative", "logical", "dialectical"}
    assert all(prompt.must or prompt.must_not for prompt in found)


def test_the_shipped_puzzles_ask_for_their_right_answers():
    puzzles = [prompt for prompt in read_regression_prompts() if prompt.tokens < 10]
    assert len(puzzles) == 4
    for prompt in puzzles:
        assert prompt.must == (solve(prompt.prompt),)


def test_problems_name_what_is_missing_and_what_is_there():
    assert problems(PROMPT, "ONE\ntwo.") == ()
    assert problems(PROMPT, "this is bad") == ("'one  two' is missing", "'Bad' is there")


@pytest.mark.parametrize(
    ("now", "before", "wrong_now", "wrong_before", "verdict"),
    [
        ("a", None, (), (), "ok"),
        ("a", None, ("x",), (), "wrong"),
        ("a", "a", (), (), "same"),
        ("a", "b", (), (), "changed"),
        ("a", "b", ("x",), (), "broken"),
        ("a", "b", (), ("x",), "fixed"),
        ("a", "b", ("x",), ("y",), "still wrong"),
    ],
)
def test_the_verdict_compares_with_the_other_generation(now, before, wrong_now, wrong_before, verdict):
    assert Outcome("a", "logical", now, wrong_now, before, wrong_before).verdict == verdict


def test_a_diff_shows_words_that_went_and_came():
    assert word_diff("the cat sat", "the dog sat down") == "the [-cat-] {+dog+} sat {+down+}"


@given(st.text(alphabet="ab ", max_size=20), st.text(alphabet="ab ", max_size=20))
def test_a_diff_of_equal_words_is_those_words(a, b):
    assert word_diff(a, a) == " ".join(a.split())
    assert ("[-" in word_diff(a, b) or "{+" in word_diff(a, b)) == (a.split() != b.split())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds no prompt"),
        ("[a]\nrole = 'poet'\nprompt = 'x'", "a.role"),
        ("[a]\nrole = 'logical'", "a.prompt"),
        ("a = 3", "a.role"),
        ("[a", "is not valid TOML"),
    ],
)
def test_a_file_that_is_no_set_of_prompts_is_refused_by_name(tmp_path, text, complaint):
    file = tmp_path / "prompts.toml"
    file.write_text(text)
    with pytest.raises(LunaError, match=complaint):
        read_regression_prompts(file)


def test_the_sha_tells_sets_of_prompts_apart():
    assert prompts_sha([PROMPT]) == prompts_sha([PROMPT.model_copy()])
    assert prompts_sha([PROMPT]) != prompts_sha([PROMPT.model_copy(update={"tokens": 41})])
