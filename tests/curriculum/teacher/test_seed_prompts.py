"""The shipped prompts, and a file of one's own."""

import itertools
import json
from collections import Counter

import pytest

from curriculum.teacher.asking import STYLES
from curriculum.teacher.candidates import read_candidates, write_offline
from curriculum.teacher.seed_prompts import CATEGORIES, read_prompts, seed_prompts
from ledger.errors import LunaError


def test_at_least_eighty_prompts_sixteen_or_more_in_each_of_five_categories():
    counts = Counter(prompt.category for prompt in seed_prompts())
    assert set(counts) == set(CATEGORIES)
    assert min(counts.values()) >= 16
    assert sum(counts.values()) >= 80


def test_no_two_prompts_are_alike():
    prompts = seed_prompts()
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    words = {prompt.id: set(prompt.text.casefold().split()) for prompt in prompts}
    for (a, of_a), (b, of_b) in itertools.combinations(words.items(), 2):
        assert len(of_a & of_b) / len(of_a | of_b) < 0.3, (a, b)
    openings = Counter(tuple(prompt.text.casefold().split()[:3]) for prompt in prompts)
    assert openings.most_common(1)[0][1] <= 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds no prompt"),
        ("a = 'x'", "a is no table"),
        ("[a]\none = ''", "a/one is ''"),
        ("[a]\none = 3", "a/one is 3"),
        ("[a]\none = 'Hi  there'\n[b]\ntwo = 'hi there'", "b/two has the same text as a/one"),
        ("[a", "is not valid TOML"),
    ],
)
def test_a_mistake_in_a_file_of_prompts_is_named(tmp_path, text, complaint):
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(LunaError, match=complaint):
        read_prompts(tmp_path / "p.toml")


def test_the_offline_writer_writes_every_style_for_every_prompt_and_the_same_each_time():
    for prompt in seed_prompts():
        texts = [write_offline(prompt, number, seed=1) for number in range(len(STYLES))]
        assert len(set(texts)) == len(STYLES)
        assert not any("{" in text for text in texts)
        assert texts == [write_offline(prompt, number, seed=1) for number in range(len(STYLES))]


def test_answers_to_judge_need_a_prompt_and_an_answer_and_each_counts_once(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"prompt": "Q", "response": "R", "reward": {}}\n\n{"prompt": "Q", "response": "R"}\n')
    (only,), bad = read_candidates(path)
    assert (only.category, only.source, bad) == ("imported", "imported", [])
    assert only.id


def test_a_line_that_is_no_answer_to_judge_is_named_and_the_others_are_kept(tmp_path):
    path = tmp_path / "answers.jsonl"
    good = {"prompt": "Q", "response": "R"}
    odd = [
        good | {"response": ""},
        good | {"number": 10**400, "prompt": "Q2"},
        good | {"category": 7},
        good | {"source": ["x"]},
        [1],
    ]
    lines = [json.dumps(good), *map(json.dumps, odd), "[" * 100_000, '{"prompt": "\\ud83c", "response": "R"}', "{"]
    path.write_text("\n".join(lines))
    kept, bad = read_candidates(path)
    assert len(kept) == 1 + 1, "a number of 400 digits is a number"
    assert [problem.line for problem in bad] == [2, 4, 5, 6, 7, 8, 9]
    path.write_text("[" * 100_000)
    with pytest.raises(LunaError, match=r"holds no answer .*answers\.jsonl:1: not JSON"):
        read_candidates(path)


def test_prompts_are_read_with_the_byte_order_mark_that_editors_write(tmp_path):
    path, text = tmp_path / "prompts.toml", "[a]\none = 'Grüße?'\n"
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_bytes(text.encode(encoding))
        assert [prompt.text for prompt in read_prompts(path)] == ["Grüße?"]
    for data in (text.encode("latin-1"), b"a = " + b"9" * 5000, b"a = " + b"[" * 5000, b"\0", text.encode("utf-32")):
        path.write_bytes(data)
        with pytest.raises(LunaError, match=r"prompts\.toml is not"):
            read_prompts(path)
