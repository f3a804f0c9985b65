"""Requests to an endpoint as they are recorded, and what a set of answers or labels has cost over all its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from curriculum.teacher.asking import Usage, cost
from curriculum.teacher.settings import TeacherSettings
from jobs.teacher.rows import Row, RowFile


class GivenUp(Exception):
    """One item got no usable answer; the message says why."""


class Budget:
    """Requests and tokens, and whether they may be more."""

    def __init__(self, settings: TeacherSettings) -> None:
        self.settings, self.usage, self.requests, self.retries = settings, Usage(), 0, 0

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Count requests as their file has them."""
        for row in rows:
            self.usage += Usage(row["prompt_tokens"], row["answer_tokens"], row["estimated"])
            self.requests += 1
            self.retries += row["attempt"] > 0

    def record(self, requests: RowFile, row: Row) -> None:
        """Write a request down and count it."""
        requests.append(row)
        self.add_rows([row])

    def cost(self) -> float:
        """Of all requests so far, in the settings' currency."""
        return cost(self.usage, self.settings)

    def is_spent(self) -> bool:
        """Whether the cost has reached its limit."""
        return 0 < self.settings.max_cost <= self.cost()

    def told(self) -> dict[str, Any]:
        """As the manifest has it."""
        if not self.requests:
            return {}
        prices = {"price_in": self.settings.price_in, "price_out": self.settings.price_out}
        counts = {"requests": self.requests, "retries": self.retries, **asdict(self.usage)}
        return {**counts, "cost": round(self.cost(), 6), **prices}

    def __str__(self) -> str:
        if not self.requests:
            return ""
        about = "about " if self.usage.estimated else ""
        priced = self.settings.price_in or self.settings.price_out
        money = f", cost {self.cost():.4f}" if priced else ", no price set"
        return (
            f", {self.requests:,} requests ({self.retries:,} again), "
            f"{about}{self.usage.prompt_tokens:,} + {self.usage.answer_tokens:,} tokens{money}"
        )
