"""A talk as text: it reads back as what was said, and its prompt has room whatever was said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from curriculum.render import dialogue_context, render_prompt, role_header
from curriculum.transcript import (
    MOST_CHARACTERS,
    Exchange,
    LengthSettings,
    fit,
    keep_recent,
    render_talk,
    talk_of,
)
from ledger.errors import LunaError
from ledger.roles import ROLES

TEXTS = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            ["User: ", "Luna: ", "Thesis: ", "Antithesis: ", "\n", " ", "word", "🌙", "<|end|>", "[THESIS]", "\r\n"]
        ),
        max_size=12,
    ).map("".join),
)
TALKS = st.lists(st.builds(Exchange, TEXTS, TEXTS), max_size=6)
ROLE = st.sampled_from([None, *ROLES])
ROOMY = 1_000_000


def room_of(role, *texts):
    """Letters of a prompt with these texts and nothing else."""
    return len(render_prompt(role, texts[-1], "\n".join(texts[:-1])))


@given(TALKS, TEXTS)
def test_each_exchange_can_be_told_from_its_neighbours(exchanges, system):
    """Dropping the oldest leaves exactly the rendering of the others."""
    context = render_talk(exchanges, system)
    for dropped in range(len(exchanges) + 1):
        left = render_talk(exchanges[dropped:], system)
        # Room for exactly what is left: nothing more may be dropped, nothing less.
        found = fit("logical", "Why?", context, len(render_prompt("logical", "Why?", left)), len)
        assert found.prompt == render_prompt("logical", "Why?", left)
        assert (found.dropped, found.cut) == (dropped, False)


@given(TALKS, TEXTS, TEXTS, TEXTS)
def test_what_the_other_voices_said_stays_when_every_exchange_is_dropped(exchanges, system, thesis, antithesis):
    before = dialogue_context(thesis, antithesis)
    context = "\n".join(part for part in (render_talk(exchanges, system), before) if part)
    alone = "\n".join(part for part in (render_talk([], system), before) if part)
    found = fit("dialectical", "Why?", context, len(render_prompt("dialectical", "Why?", alone)), len)
    assert found.prompt == render_prompt("dialectical", "Why?", alone)
    assert (found.dropped, found.cut) == (len(exchanges), False)


@given(ROLE, TALKS, st.text(max_size=400), st.text(max_size=400), st.integers(200, 600))
def test_a_prompt_never_has_more_tokens_than_there_is_room_for(role, exchanges, system, question, room):
    context = "\n".join(part for part in (render_talk(exchanges, system), dialogue_context(question, system)) if part)
    found = fit(role, question, context, room, lambda prompt: len(prompt.encode()))
    assert found.tokens == len(found.prompt.encode()) <= room
    if role:
        assert found.prompt.startswith(role_header(role))
        assert found.prompt.endswith(render_prompt(role, "")[-len("\n\n[THESIS]\n") :])
    if found.cut:
        assert found.dropped == len(exchanges), "exchanges go before anything else is cut"


def test_a_long_question_loses_its_middle_between_words():
    question = "First of all " + "and so on " * 500 + "what is it?"
    found = fit("logical", question, "You are terse.", 300, len)
    assert found.cut
    assert found.prompt.startswith(role_header("logical") + "You are terse.\n\nFirst of all and so")
    assert " … " in found.prompt
    assert found.prompt.endswith("what is it?\n\n[ANTITHESIS]\n")
    assert 250 < len(found.prompt) <= 300
    words = set(found.prompt.removeprefix(role_header("logical")).split())
    assert words <= {*question.split(), "You", "are", "terse.", "…", "[ANTITHESIS]"}, "no word is cut"


def test_a_short_text_beside_a_long_one_stays_whole():
    context = dialogue_context("The moon " + "shines " * 400, "It does not.")
    found = fit("dialectical", "Does the moon shine?", context, 300, len)
    assert found.cut
    assert "Antithesis: It does not.\n\nDoes the moon shine?\n\n[SYNTHESIS]\n" in found.prompt
    assert "Thesis: The moon shines" in found.prompt


def test_one_endless_word_is_cut_too():
    found = fit("creative", "x" * 100_000, "", 200, len)
    assert found.cut
    assert 100 < len(found.prompt) <= 200


def test_a_room_smaller_than_the_frame_is_refused_with_what_to_set():
    with pytest.raises(LunaError, match=r"frame alone.*\[text\] max_tokens"):
        fit("creative", "Why?", "", 20, len)


def test_exchanges_far_back_are_not_read_however_much_room_there_is():
    exchanges = [Exchange(f"{number}", "word " * 400) for number in range(20)]
    recent = keep_recent(exchanges)
    assert 0 < len(recent) < 20
    assert recent == exchanges[-len(recent) :]
    assert MOST_CHARACTERS - 2100 < len(render_talk(recent)) <= MOST_CHARACTERS
    whole, bounded = (fit("logical", "Why?", render_talk(talk), ROOMY, len) for talk in (exchanges, recent))
    assert whole.prompt == bounded.prompt
    assert (whole.dropped, bounded.dropped) == (20 - len(recent), 0)


def test_any_other_context_stays_before_the_question():
    for context in ("Some notes.\n\nMore of them.", "user: Hello.\nassistant: Hi.", "Luna: first\nUser: second"):
        assert fit("logical", "Why?", context, ROOMY, len).prompt == render_prompt("logical", "Why?", context)


def test_messages_are_told_apart():
    talk = talk_of(
        [
            ("assistant", "Welcome."), ("system", " Be terse. "), ("user", "One?"), ("user", "Two?"),
            ("assistant", ""), ("tool", "4"), ("assistant", "Four."), ("assistant", "Yes."),
            ("developer", "In English."), ("user", "Why?"),
        ]
    )  # fmt: skip
    assert talk.system == "Be terse.\nIn English."
    assert talk.exchanges == (Exchange("", "Welcome."), Exchange("One?\nTwo?", "Four.\nYes."))
    assert talk.question == "Why?"
    assert talk_of([("user", "One?"), ("assistant", "1")]).question == ""


@pytest.mark.parametrize("values", [{"max_tokens": 300, "answer_tokens": 200}, {"max_tokens": 8}, {"answer_tokens": 0}])
def test_lengths_that_leave_a_prompt_no_room_are_refused(values):
    with pytest.raises(ValidationError):
        LengthSettings(**values)
