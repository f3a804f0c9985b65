"""The three voices that share one base."""

from typing import Literal, get_args

Role = Literal["creative", "logical", "dialectical"]

ROLES: tuple[Role, ...] = get_args(Role)
"""In dialogue order: thesis, antithesis, synthesis."""

BASE: Literal["base"] = "base"
"""The voice without an adapter."""

Voice = Role | Literal["base"]
"""Who can answer: a role, or the untouched base."""
