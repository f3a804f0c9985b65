"""Scoring in the background: it neither delays an answer nor fails one, and what it leaves out is counted."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry

from curriculum.reward import VALUES, RewardOutput
from serving.api.errors import Refused
from serving.api.reward import Background, Judged
from tests.ledger.builders import sha
from tests.ledger.test_conversations import a_turn


class Judges:
    """A judge whose answer can be held back or refused."""

    def __init__(self):
        self.there, self.refuses, self.open = True, False, asyncio.Event()
        self.open.set()

    def exists(self):
        return self.there

    async def score(self, pairs):
        await self.open.wait()
        if self.refuses:
            raise Refused(503, "not now")
        value = dict.fromkeys(VALUES, 0.25) | {"scalar_preference": 0.5}
        return [Judged(sha(answer), RewardOutput(**value)) for _, answer in pairs]


def scoring(story, most=4):
    """What was stored and counted after a story told to (judge, background)."""

    async def play():
        stored, registry, judge = [], CollectorRegistry(), Judges()

        async def store(scores):
            stored.extend(scores)

        background = Background(judge, store, registry, most)
        story(judge, background)
        for _ in range(20):
            await asyncio.sleep(0)
        judge.open.set()
        for _ in range(20):
            await asyncio.sleep(0)
        outcomes = {
            name: registry.get_sample_value("luna_scores_total", {"outcome": name})
            for name in ("stored", "failed", "dropped")
        }
        return stored, outcomes

    return asyncio.run(play())


def test_whole_answers_are_scored_each_under_its_own_turn():
    turns = [a_turn(1), a_turn(2), a_turn(3, finish_reason="aborted"), a_turn(4, answer="\n ")]
    stored, outcomes = scoring(lambda judge, background: [background.take(turn) for turn in turns])
    assert [(score.turn_id, score.model) for score in stored] == [(t.id, sha(t.answer)) for t in turns[:2]]
    assert (stored[0].empathy, stored[0].scalar_preference, stored[0].gate) == (0.25, 0.5, 0.75)
    assert outcomes == {"stored": 2, "failed": 0, "dropped": 0}


def test_a_full_queue_drops_and_counts():
    def story(judge, background):
        judge.open.clear()
        for number in range(1, 8):
            background.take(a_turn(number))

    stored, outcomes = scoring(story, most=4)
    assert [score.turn_id for score in stored] == [a_turn(number).id for number in range(1, 5)]
    assert outcomes == {"stored": 4, "failed": 0, "dropped": 3}


def test_a_judge_that_refuses_is_counted_and_asked_again_for_the_next_answer():
    def story(judge, background):
        judge.refuses = True
        background.take(a_turn(1))

        async def recover():
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            judge.refuses = False
            background.take(a_turn(2))

        background.later = asyncio.ensure_future(recover())

    stored, outcomes = scoring(story)
    assert [score.turn_id for score in stored] == [a_turn(2).id]
    assert outcomes == {"stored": 1, "failed": 1, "dropped": 0}


def test_without_a_model_nothing_waits():
    def story(judge, background):
        judge.there = False
        background.take(a_turn(1))

    assert scoring(story) == ([], {"stored": 0, "failed": 0, "dropped": 0})
