"""A user may go away at any moment: what was said is stored once, and the work for them ends."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from hypothesis import given
from hypothesis import strategies as st

from serving.api.errors import Refused
from serving.api.events import Events
from serving.api.exchange import Begun, Question, Said, all_voices, one_voice
from serving.engine import Piece, Sampling, Started

WORDS = ["one ", "two ", "three ", "four"]
QUESTION = Question("Count.", "c" * 32, (), Sampling(8, 0.0, None))


class Speaker:
    """Says the words, a step of the event loop each; knows how often it is speaking."""

    def __init__(self, fails_after=None):
        self.speaking, self.fails_after = 0, fails_after

    async def speak(self, model, prompt, sampling):
        self.speaking += 1
        try:
            for number, word in enumerate(WORDS):
                await asyncio.sleep(0)
                if number == 0:
                    yield Started(None, None, None, "main") if model == "base" else Started(model, 0, "a" * 64, "main")
                if number == self.fails_after:
                    raise Refused(503, "the engine died.")
                yield Piece(word, 3, number + 1, "stop" if word == WORDS[-1] else None)
        finally:
            self.speaking -= 1


class SlowStore:
    """Takes some steps of the event loop to store a turn."""

    def __init__(self):
        self.turns = []

    async def add_turn(self, turn):
        for _ in range(5):
            await asyncio.sleep(0)
        self.turns.append(turn)


async def _settle():
    for _ in range(20):
        await asyncio.sleep(0)


@given(st.integers(0, 25))
def test_whenever_the_user_goes_away_what_was_said_is_stored_once_and_the_work_ends(steps):
    async def talk():
        speaker, store, heard = Speaker(), SlowStore(), []

        async def listen():
            async with aclosing(one_voice(speaker, store, QUESTION, "base")) as events:
                async for event in events:
                    heard.append(event)  # noqa: PERF401 - what was heard before the end is wanted too

        user = asyncio.create_task(listen())
        for _ in range(steps):
            await asyncio.sleep(0)
        user.cancel()
        await _settle()
        assert speaker.speaking == 0
        assert len(store.turns) == (1 if any(isinstance(event, Begun) for event in heard) else 0)
        for turn in store.turns:
            said = "".join(event.text for event in heard if isinstance(event, Said))
            assert turn.answer == said
            assert turn.finish_reason == ("stop" if said == "".join(WORDS) else "aborted")

    asyncio.run(talk())


def test_an_engine_that_dies_leaves_what_it_said_before():
    async def talk():
        store = SlowStore()
        try:
            async for _ in one_voice(Speaker(fails_after=2), store, QUESTION, "base"):
                pass
        except Refused as refusal:
            await _settle()
            return refusal.status, [(turn.answer, turn.finish_reason) for turn in store.turns]

    assert asyncio.run(talk()) == (503, [("one two ", "aborted")])


def test_each_voice_of_a_dialogue_hears_those_before_it():
    async def talk():
        store = SlowStore()
        async for _ in all_voices(Speaker(), store, QUESTION):
            pass
        return store.turns

    turns = asyncio.run(talk())
    assert [turn.role for turn in turns] == ["creative", "logical", "dialectical"]
    assert [turn.context.count("one two three four") for turn in turns] == [0, 1, 2]


@given(st.integers(0, 8))
def test_a_response_that_cannot_be_sent_closes_its_source_at_once(sent):
    """The connection breaks after `sent` messages."""

    async def respond():
        speaker = Speaker()
        source = speaker.speak("base", "", QUESTION.sampling)
        await anext(source)

        async def text():
            async for piece in source:
                yield piece.text

        messages = []

        async def send(message):
            if len(messages) == sent:
                raise asyncio.CancelledError
            messages.append(message)

        response = Events(text(), source)
        try:
            await response({"type": "http", "asgi": {"spec_version": "2.4"}}, None, send)
        except asyncio.CancelledError:
            return speaker.speaking, True
        return speaker.speaking, False

    # One message before the words, one after them.
    assert asyncio.run(respond()) == (0, sent < len(WORDS) + 2)
