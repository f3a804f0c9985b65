"""The summary of a set."""

import pytest

from curriculum.inspect import summarise
from curriculum.recipes import build_recipe


def test_a_summary_counts_what_is_there():
    examples = build_recipe("creative", 240, seed=1)
    summary = summarise(examples)
    assert summary.examples == summary.distinct_inputs == 240
    assert summary.roles == {"creative": 240}
    assert summary.kinds == {"hybrid": 168, "pure": 72}
    assert summary.scorings == {"exact": 99, "open": 141}
    assert summary.categories["what_if"] == 27
    assert sum(summary.categories.values()) == 240
    assert summary.input_words.shortest <= summary.input_words.mean <= summary.input_words.longest
    assert summary.output_words.shortest == 1
    assert summary.top_template.startswith("recipe/")
    assert summary.top_template_share == pytest.approx(
        max(sum(e.source == s for e in examples) for s in {e.source for e in examples}) / 240
    )


def test_an_empty_set_is_all_zeros():
    summary = summarise([])
    assert (summary.examples, summary.top_template_share, summary.output_words.longest) == (0, 0.0, 0)
