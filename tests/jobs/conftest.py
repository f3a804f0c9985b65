"""What the tests of commands share."""

from __future__ import annotations

import pytest


@pytest.fixture
def short_waits(monkeypatch):
    """The client of a teacher's endpoint waits half a second before its first retry."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
