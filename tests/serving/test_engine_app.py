"""How a replica watches its engine, and that it takes it along when it ends."""

from __future__ import annotations

import asyncio

import pytest

from serving.engine_app import at_shutdown, until_dead


def checks(outcomes):
    """A health check with these outcomes, one a call; well ever after."""
    left = list(outcomes)

    async def check():
        if left and not left.pop(0):
            raise RuntimeError("CUDA out of memory")

    return check, left


@pytest.mark.parametrize("outcomes", [[False], [False, False, True, False, False, True], [True] * 5])
def test_an_engine_that_fails_a_check_now_and_then_lives_on(outcomes):
    check, left = checks(outcomes)

    async def watch():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(until_dead(check, 0.001), 0.3)

    asyncio.run(watch())
    assert left == []


def test_an_engine_that_fails_three_checks_in_a_row_is_dead():
    check, left = checks([True, False, False, True, False, False, False, True])
    asyncio.run(asyncio.wait_for(until_dead(check, 0.001), 5))
    assert left == [True]


def test_the_engine_is_stopped_after_the_applications_own_shutdown_and_before_it_is_reported():
    order = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start"})
            return
        assert (await receive())["type"] == "lifespan.startup"
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        order.append("application")
        await send({"type": "lifespan.shutdown.complete"})

    async def play():
        wrapped = at_shutdown(app, lambda: order.append("engine"))
        messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

        async def receive():
            return messages.pop(0)

        async def send(message):
            order.append(message["type"])

        await wrapped({"type": "http"}, receive, send)
        await wrapped({"type": "lifespan"}, receive, send)

    asyncio.run(play())
    assert order == [
        "http.response.start", "lifespan.startup.complete", "application", "engine", "lifespan.shutdown.complete",
    ]  # fmt: skip
