"""Role recipes: proportions, variety, determinism, tone."""

import re
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.agl.puzzles import LEARNED_LAST, plain_form
from curriculum.agl.solve import solve
from curriculum.everyday.lessons import is_everyday
from curriculum.example import scoring_of
from curriculum.proportions import allocate
from curriculum.recipes import build_recipe
from curriculum.recipes.build import EVERYDAY_SHARE, TOTALS, category_examples, category_weights
from curriculum.recipes.grammar import fill_category
from curriculum.render import render_prompt
from curriculum.tone import corporate_phrase
from ledger.errors import LunaError
from ledger.roles import ROLES


@pytest.fixture(scope="module")
def full_recipes():
    return {role: build_recipe(role, 12_000, seed=7) for role in ROLES}


def group(category):
    return "agl" if category.startswith("agl/") else "everyday" if category == "talk" else category


def test_the_creative_recipe_of_12000_has_the_designed_counts(full_recipes):
    counts = Counter(group(example.category) for example in full_recipes["creative"])
    assert counts == {
        "agl": 3600,
        "agl_creative": 1800,
        "role_awareness": 1350,
        "emotional_agl": 1350,
        "what_if": 1350,
        "poetry": 1350,
        "everyday": 1200,
    }


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("total", [100, 1200])
def test_a_tenth_of_every_recipe_is_everyday_life(role, total):
    lessons = [example for example in build_recipe(role, total, 1) if is_everyday(example)]
    assert len(lessons) == total // 10
    assert {lesson.category for lesson in lessons} == {"everyday", "talk"}


@pytest.mark.parametrize("role", ["logical", "dialectical"])
def test_the_golden_ratio_is_the_share_of_pure_examples_beside_everyday_life(role, full_recipes):
    kinds = Counter(example.kind for example in full_recipes[role] if not is_everyday(example))
    assert kinds == {"pure": 6480, "hybrid": 4320}
    assert Counter(example.kind for example in build_recipe(role, 100, 1, golden_ratio=0.5))["pure"] == 45
    assert all(example.kind == "hybrid" for example in build_recipe(role, 50, 1, golden_ratio=0.0))


@pytest.mark.parametrize("role", ROLES)
def test_a_recipe_of_12000_has_at_least_10000_different_inputs(role, full_recipes):
    assert len(full_recipes[role]) == 12_000
    assert len({example.input for example in full_recipes[role]}) >= 10_000


@pytest.mark.parametrize("role", ROLES)
def test_no_template_makes_more_than_two_percent(role, full_recipes):
    named = Counter(e.source for e in full_recipes[role] if e.kind == "hybrid" and not is_everyday(e))
    assert max(named.values()) <= 0.02 * len(full_recipes[role])


def test_a_large_logical_recipe_has_every_family_most_often_what_is_learned_last_in_plain_form():
    recipe = build_recipe("logical", 6000, 1)
    puzzles = [e for e in recipe if e.kind == "pure"]
    counts = Counter(e.category.removeprefix("agl/") for e in puzzles)
    assert set(counts) == set(LEARNED_LAST)
    assert counts["comparison"] > counts["existential"] > counts["membership"] > counts["modus_ponens"] > 20
    plain = [e for e in puzzles if plain_form((*e.source.removeprefix("recipe/agl/").split("/", 1), e.input, e.output))]
    assert len(plain) >= 0.9 * len(puzzles)


@pytest.mark.parametrize(("role", "few"), [("creative", 1), ("logical", 4), ("dialectical", 1)])
def test_few_puzzles_are_of_few_families_and_many_of_more(role, few, full_recipes):
    small = build_recipe(role, TOTALS[role], 1)
    assert {e.category for e in small if e.kind == "pure"} == {f"agl/{family}" for family in list(LEARNED_LAST)[:few]}
    assert len({e.category for e in full_recipes[role] if e.kind == "pure"}) >= 9


@pytest.mark.parametrize("role", ROLES)
def test_answers_are_as_good_as_never_corporate(role, full_recipes):
    """The detector takes a few arguments about honesty for preaching: 32 of 36,000 answers."""
    sample = full_recipes[role][::20]
    assert sum(corporate_phrase(example.output) is not None for example in sample) <= 0.005 * len(sample)


@pytest.mark.parametrize("role", ROLES)
def test_answers_are_short(role, full_recipes):
    for example in full_recipes[role]:
        assert "{" not in example.output
        assert example.kind == "pure" or "{" not in example.input
        if example.kind == "hybrid":
            assert len(example.output.split()) <= 36
            assert len(example.input.split()) <= 30


@pytest.mark.parametrize("role", ROLES)
def test_open_answers_depend_on_their_prompts(role, full_recipes):
    """Among the open answers at least three quarters are unique, so that the right one of four is recognisable."""
    answers = [example.output for example in full_recipes[role] if scoring_of(example) == "open"]
    assert len(set(answers)) >= 0.75 * len(answers)


def test_pure_labels_in_recipes_are_right(full_recipes):
    for example in full_recipes["dialectical"][:6480:7]:
        assert solve(example.input) == example.output


def test_a_feeling_has_one_glyph_and_its_word_is_in_the_prompt(full_recipes):
    glyphs = {example.output for example in full_recipes["creative"] if example.category == "emotional_agl"}
    assert glyphs == set("💜✨🌱🌊🌙🌀🪞")
    love = [e for e in full_recipes["creative"] if e.category == "emotional_agl" and "devotion" in e.input]
    assert love
    assert {example.output for example in love} == {"💜"}


def test_a_tool_request_is_always_explained_in_its_prompt(full_recipes):
    tools = [example for example in full_recipes["dialectical"] if example.category == "tool_syntax"]
    requests = [example for example in tools if example.output.startswith("SPECIALIST_REQUEST[")]
    assert len(requests) > 0.8 * len(tools)
    for example in requests:
        tool = re.fullmatch(r"SPECIALIST_REQUEST\[(\w+):([^\]]+)\]", example.output)
        assert tool, example.output
        assert f"SPECIALIST_REQUEST[{tool[1]}:" in example.input
        assert len(example.input.split("\n")[0].split()) >= 5


def test_unsure_answers_verify_and_certain_ones_do_not(full_recipes):
    canonicity = [example for example in full_recipes["dialectical"] if example.category == "canonicity"]
    unsure = [example for example in canonicity if "et me verify" in example.output]
    assert 0.5 < len(unsure) / len(canonicity) < 1.0


def test_replies_to_other_voices_carry_them_in_the_context(full_recipes):
    synthesis = [example for example in full_recipes["dialectical"] if example.category == "synthesis"]
    assert all("Thesis: " in example.context and "Antithesis: " in example.context for example in synthesis)
    prompt = render_prompt("dialectical", synthesis[0].input, synthesis[0].context)
    assert prompt.index("Thesis: ") < prompt.index(synthesis[0].input) < prompt.index("[SYNTHESIS]")


@given(st.sampled_from(ROLES), st.integers(1, 700), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_any_total_keeps_the_proportions_to_within_one(role, total, seed):
    examples = build_recipe(role, total, seed)
    counts = Counter(group(example.category) for example in examples)
    weights = category_weights(role)
    assert len(examples) == total
    assert abs(counts["everyday"] - total * EVERYDAY_SHARE) < 1
    rest = total - counts["everyday"]
    for category, weight in weights.items():
        assert abs(counts[category] - rest * weight / sum(weights.values())) < 1


@given(st.integers(0, 10_000), st.dictionaries(st.text(max_size=3), st.floats(0.01, 100), min_size=1))
def test_largest_remainder_sums_up_and_stays_within_one(total, weights):
    counts = allocate(total, weights)
    whole = sum(weights.values())
    assert sum(counts.values()) == total
    assert all(abs(counts[key] - total * weights[key] / whole) < 1 + 1e-6 for key in weights)


@pytest.mark.parametrize("role", ROLES)
def test_equal_seeds_give_equal_recipes_and_other_seeds_others(role):
    assert build_recipe(role, 300, 3) == build_recipe(role, 300, 3)
    assert build_recipe(role, 300, 3) != build_recipe(role, 300, 4)


def test_roles_draw_different_puzzles_from_one_seed():
    inputs = {
        role: {example.input for example in build_recipe(role, 500, 1) if example.kind == "pure"} for role in ROLES
    }
    assert len(inputs["creative"] & inputs["dialectical"]) < 0.5 * len(inputs["creative"])


def test_wrong_arguments_are_named():
    with pytest.raises(LunaError, match="'poetic'"):
        build_recipe("poetic", 10, 1)
    with pytest.raises(LunaError, match=r"1\.5"):
        build_recipe("logical", 10, 1, golden_ratio=1.5)
    with pytest.raises(LunaError, match="-5"):
        build_recipe("logical", -5, 1)


def test_more_than_the_templates_hold_is_refused_with_what_to_do():
    with pytest.raises(LunaError, match=r"asked for 50000 .*'warmth'.*add templates"):
        fill_category("dialectical", "warmth", 50_000, Random(1))


def test_an_empty_recipe_is_empty():
    assert build_recipe("creative", 0, 1) == []


@pytest.mark.parametrize("role", ROLES)
def test_a_category_alone_is_what_it_is_in_a_recipe(role):
    recipe = build_recipe(role, 600, 4)
    categories = [category for category in category_weights(role) if category != "agl"]
    for category in categories:
        part = [example for example in recipe if example.category == category]
        assert part == category_examples(role, category, len(part), 4)
