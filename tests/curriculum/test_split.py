"""One split: what belongs together is on one side, in both channels and over generations."""

from __future__ import annotations

import dataclasses
import itertools
import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.example import Example, make_example
from curriculum.near_copies import near_copy_keys, near_pairs, shingles_of, words_of
from curriculum.preferences.pairs import make_preference
from curriculum.recipes.build import build_recipe
from curriculum.split import Split, held_out, keys_of, keys_of_pair, split_by_group
from ledger.errors import LunaError
from ledger.roles import ROLES

WORDS = ["tea", "stone", "river", "lamp", "why", "moon", "bread", "the", "of", "a", "slow", "blue", "seven", "door"]


def asked(question, answer="An answer.", role="logical", group="", context=""):
    said = {"input": question, "output": answer, "context": context}
    return make_example(role=role, stage="conversations", category="c", kind="hybrid", group=group, **said)


def preferred(question, chosen, rejected="No.", role="logical", group=""):
    return make_preference(
        role=role, prompt=question, chosen=chosen, rejected=rejected, margin=1.0, origin="imported", group=group
    )


def prose(rng, count):
    """Words of a large vocabulary, so that two texts are alike only where the test makes them so."""
    return [f"w{rng.randrange(5000)}" for _ in range(count)]


# What the rule says, once more and by itself: exact similarities of all that stands on two sides.


def plain(text):
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return [word.strip(".,?!:;") or word for word in words]


def similarity(one, other):
    first, second = (
        {tuple(words[at : at + 5]) for at in range(len(words) - 4)} or {tuple(words)}
        for words in (plain(one), plain(other))
    )
    return len(first & second) / len(first | second)


def question_of(item):
    return item.input if isinstance(item, Example) else item.prompt


def texts_of(item):
    answers = [item.output] if isinstance(item, Example) else [item.chosen, item.rejected]
    return [f"{question_of(item)}\n{answer}" for answer in answers]


def belong_together(one, other):
    if one.group and one.group == other.group:
        return True
    if plain(question_of(one)) == plain(question_of(other)) or similarity(question_of(one), question_of(other)) >= 0.8:
        return True
    return any(similarity(a, b) >= 0.8 for a, b in itertools.product(texts_of(one), texts_of(other)))


def sides(split: Split):
    return [*split.train, *split.train_pairs], [*split.holdout, *split.holdout_pairs]


def assert_apart(train, holdout):
    for one, other in itertools.product(train, holdout):
        assert not belong_together(one, other), (one, other)


@st.composite
def items(draw):
    """Questions and answers of few words in many spellings, copies of each other with a word more, in few groups."""
    texts = draw(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=16), min_size=1, max_size=5))
    found = []
    for _ in range(draw(st.integers(1, 25))):
        words, answer = list(draw(st.sampled_from(texts))), list(draw(st.sampled_from(texts)))
        change = draw(st.sampled_from(["", "", "more", "less", "case", "spaces", "mark"]))
        words = {"more": [*words, "now"], "less": words[:-1] or words}.get(change, words)
        question = ("  " if change == "spaces" else " ").join(words) + {"spaces": "\n", "mark": "?!"}.get(change, "")
        question = question.upper() if change == "case" else question
        role, group = draw(st.sampled_from(ROLES)), draw(st.sampled_from(["", "", "", "conversation/1", "book/2"]))
        reply = " ".join(answer)
        if draw(st.booleans()):
            found.append(asked(question, reply, role, group))
        else:
            found.append(preferred(question, reply, f"{reply} {draw(st.sampled_from(WORDS))}", role, group))
    return list({item.id: item for item in found}.values())


def apart(found, percent, known=None):
    examples = [item for item in found if isinstance(item, Example)]
    return split_by_group(examples, [item for item in found if not isinstance(item, Example)], percent, known)


def noted(split: Split, known=None):
    """What the ledger knows of sides when such a split was taken."""
    known = dict(known or {})
    for side, on_side in zip(("train", "holdout"), sides(split), strict=True):
        for key in (key for item in on_side for key in split.keys[item.id]):
            known[key] = known.get(key, frozenset()) | {side}
    return known


@settings(max_examples=60, deadline=None)
@given(items(), items(), st.integers(0, 100))
def test_no_group_no_question_and_no_near_copy_is_on_both_sides_over_generations(first, second, percent):
    parent = apart(first, percent)
    assert parent.torn == 0
    assert_apart(*sides(parent))
    known = noted(parent)
    child = apart(second, percent, known)
    train, holdout = ([*a, *b] for a, b in zip(sides(parent), sides(child), strict=True))
    assert_apart(train, holdout)
    assert sum(map(len, sides(child))) + child.torn == len(second)
    for pool in (first, second):
        for item in held_out([item for item in pool if isinstance(item, Example)], percent, noted(child, known)):
            assert not any(belong_together(item, one) for one in train)


@settings(max_examples=40, deadline=None)
@given(items(), st.integers(0, 100), st.randoms(use_true_random=False))
def test_the_order_of_the_items_changes_nothing(found, percent, rng):
    split, again = apart(found, percent), apart(rng.sample(found, len(found)), percent)
    for one, other in zip(sides(split), sides(again), strict=True):
        assert {item.id for item in one} == {item.id for item in other}
    assert (split.joined, split.torn, split.keys) == (again.joined, again.torn, again.keys)


def test_long_near_copies_are_found_at_the_similarity_that_the_rule_names():
    rng, found, cases = random.Random(5), 0, 0
    while cases < 1000:
        one = prose(rng, rng.randrange(30, 120))
        other = list(one)
        for _ in range(rng.randrange(1, 4)):
            other[rng.randrange(len(other))] = "changed"
        if 0.8 <= similarity(" ".join(one), " ".join(other)) < 0.9:
            cases += 1
            found += not set(near_copy_keys(one)).isdisjoint(near_copy_keys(other))
    assert found / cases >= 0.998


def test_long_near_copies_that_share_no_key_are_on_one_side_of_a_split():
    rng, cases = random.Random(7), []
    while len(cases) < 300:
        one = prose(rng, rng.randrange(40, 60))
        at = rng.randrange(len(one))
        other = [*one[:at], "changed", *one[at + 1 :]]
        if 0.8 <= similarity(" ".join(one), " ".join(other)) < 0.85:
            cases.append((asked(" ".join(one)), asked(" ".join(other))))
    split = split_by_group([item for case in cases for item in case], [], 50)
    held = {item.id for item in split.holdout}
    assert all((one.id in held) == (other.id in held) for one, other in cases)
    found = set(near_pairs([shingles_of(words_of(item.input)) for case in cases for item in case]))
    assert found == {(2 * n, 2 * n + 1) for n in range(len(cases))}


def test_texts_with_little_in_common_share_no_key():
    rng = random.Random(6)
    texts = [prose(rng, rng.randrange(5, 80)) for _ in range(500)]
    keys = [key for text in texts for key in set(near_copy_keys(text))]
    assert len(set(keys)) == len(keys)


def test_questions_that_differ_in_white_space_case_and_final_newline_are_one():
    forms = ("What is part {} for?", "What is part {} for? ", "what is part {} for?", "What  is part {} for?",
             "What is part {} for?\n", "  WHAT IS PART {} FOR")  # fmt: skip
    faq = [asked(form.format(n), f"Part {n} holds part {n + 1}.") for n in range(200) for form in forms]
    split = split_by_group(faq, [], 20)
    trained = {" ".join(item.input.split()).casefold().strip("?") for item in split.train}
    assert not trained & {" ".join(item.input.split()).casefold().strip("?") for item in split.holdout}
    assert 0.1 < len(split.holdout) / len(faq) < 0.3
    assert split.joined == 0, "equal questions are no near copies"


def test_one_question_for_three_roles_and_in_both_channels_is_one():
    questions = [f"What would you tell number {n}?" for n in range(300)]
    examples = [asked(q, f"{role} says {n}", role) for n, q in enumerate(questions) for role in ROLES]
    pairs = [preferred(q.upper(), f"yes {n}", f"no {n}", role) for n, q in enumerate(questions) for role in ROLES]
    split = split_by_group(examples, pairs, 20)
    assert {e.input for e in split.holdout} == {p.prompt.capitalize() for p in split.holdout_pairs}
    assert 0.15 < len(split.holdout) / len(examples) < 0.25


def test_a_near_copy_of_another_groups_text_joins_the_groups_and_is_counted():
    text = " ".join(prose(random.Random(1), 200))
    examples = [
        asked("What does it say?", text, group="document/a"),
        asked("And the second page?", "Nothing.", group="document/a"),
        asked("What was said there?", f"{text} indeed", group="document/b"),
        asked("Unlike all others, is it?", "Yes.", group="document/c"),
    ]
    (one, two, three, other) = (split_by_group(examples, [], percent) for percent in (0, 30, 60, 100))
    assert {split.joined for split in (one, two, three, other)} == {1}
    for split in (one, two, three, other):
        assert len({e.group for e in split.train} & {"document/a", "document/b"}) in (0, 2)
    assert one.train == examples
    assert other.holdout == examples


def test_about_a_fifth_is_held_out_and_a_larger_share_contains_the_smaller_one():
    examples = [asked(f"question {n}", f"answer {n}") for n in range(3000)]
    held = [{e.id for e in split_by_group(examples, [], percent).holdout} for percent in (0, 5, 20, 60, 100)]
    assert 0.17 < len(held[2]) / 3000 < 0.23
    assert all(small <= large for small, large in itertools.pairwise(held))
    assert (len(held[0]), len(held[-1])) == (0, 3000)
    with pytest.raises(LunaError, match="101"):
        split_by_group(examples, [], 101)


def test_one_long_conversation_is_trained_on_and_the_holdout_keeps_its_share():
    talk = [asked(f"turn {n} of it", f"reply {n}", group="conversation/1") for n in range(400)]
    others = [asked(f"question {n}", f"answer {n}") for n in range(600)]
    for name in range(20):
        renamed = [dataclasses.replace(turn, group=f"conversation/{name}") for turn in talk]
        split = split_by_group([*renamed, *others], [], 20)
        assert {e.group for e in split.holdout} == {""}
        assert 0.08 < len(split.holdout) / 1000 < 0.2


def test_recipes_stay_in_small_clusters_and_a_fifth_is_held_out():
    recipes = [example for role in ROLES for example in build_recipe(role, 1200, seed=1)]
    split = split_by_group(recipes, [], 20)
    assert split.torn == 0
    assert 0.17 < len(split.holdout) / len(recipes) < 0.23
    assert split.joined < 0.1 * len(recipes)
    for role in ROLES:
        assert 0.14 < sum(e.role == role for e in split.holdout) / 1200 < 0.26
    categories = {e.category for e in recipes}
    assert {e.category for e in split.train} == categories


def test_new_data_follows_the_side_of_what_it_belongs_to():
    first = [asked(f"topic {n}", f"text {n}", group=f"conversation/{n}") for n in range(50)]
    parent = split_by_group(first, [], 20)
    sides_before = {e.group: "train" for e in parent.train} | {e.group: "holdout" for e in parent.holdout}
    later = [asked(f"more about {n}", f"again {n}", group=f"conversation/{n}") for n in range(50)]
    child = split_by_group(later, [], 90, noted(parent))
    assert {e.group for e in child.holdout} == {group for group, side in sides_before.items() if side == "holdout"}
    assert child.torn == 0


def test_what_reaches_both_sides_of_earlier_data_is_left_out_and_nothing_else():
    known = noted(split_by_group([asked("a", "1", group="conversation/trained")], [], 0))
    known |= noted(split_by_group([asked("b", "2", group="conversation/held")], [], 100))
    bridge = asked("c", "3", group="conversation/held")
    copies = [asked("c", "4", group="conversation/trained"), asked("d", "5", group="conversation/trained")]
    more = asked("e", "6", group="conversation/held")
    split = split_by_group([bridge, *copies, more], [], 20, known)
    assert split.train == copies
    assert split.holdout == [more]
    assert split.torn == 1
    assert bridge.id not in split.keys


def test_capability_items_are_held_out_by_the_same_rule_and_never_trained_ones():
    pool = [asked(f"puzzle {n}", "●") for n in range(500)]
    free = held_out(pool, 20)
    assert 60 < len(free) < 140
    assert {e.id for e in free} == {e.id for e in split_by_group(pool, [], 20).holdout}
    trained = noted(split_by_group([dataclasses.replace(free[0], output="⊥")], [], 0))
    assert held_out(pool, 20, trained) == free[1:]


def test_keys_are_what_ledgers_have_kept():
    """They are in the ledgers of all homes; a library or a rule that changes them would unlearn what was held out."""
    short = asked("What is the kettle for?", "Tea, and company.", group="book/1")
    long = asked("Why is it that the kettle sings before it boils and is silent when it does?", "Steam.")
    assert keys_of(short) == SHORT
    assert keys_of(long)[:3] == LONG
    assert len(keys_of(long)) == 17, "a band that question and whole text agree in is one key"
    pair = preferred(short.input, short.output, "No.", group="book/1")
    assert set(keys_of(short)) < set(keys_of_pair(pair))


def test_words_have_one_spelling():
    assert words_of("  “Tea,”  said ＡＤＡ; Straße\n¬A ?? ") == ["tea", "said", "ada", "strasse", "¬a", "??"]
    assert shingles_of(["a", "b"]) == ["a b"]


SHORT = (2265736674339797327, -3425594132840680639, -8345332834459925626, 5036118023784986965)
LONG = (3963252020631453081, 8412360048130990771, -58557754330072764)


def test_a_question_that_every_talk_comes_back_to_does_not_make_one_cluster_of_them():
    talks = []
    for n in range(100):
        group, before = f"conversation/{n}", f"User: Where is lamp {n}?\nLuna: Behind door {n}."
        talks.append(asked(f"Where is lamp {n}?", f"Behind door {n}.", group=group))
        for number, (question, answer) in enumerate([("And why?", "It fell."), ("Thanks.", "You are welcome.")]):
            talks.append(asked(question, answer, group=group, context=f"{before}\nUser: {number}"))
    split = split_by_group(talks, [], 20)
    assert 30 < len(split.holdout) < 90
    assert {e.group for e in split.train}.isdisjoint({e.group for e in split.holdout})
    again = [dataclasses.replace(turn, group=turn.group + "/again") for turn in split.train]
    assert split_by_group(again, [], 100, noted(split)).holdout == [], "the same talks under other names stay trained"
