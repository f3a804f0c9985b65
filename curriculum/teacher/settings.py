"""The `[teacher]` table of a home's settings: which model judges, and how hard it may be asked.

It decides how labels are got, not what a generation is, so it is no part of a generation's `config_sha`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from ledger.errors import LunaError


class TeacherSettings(BaseModel):
    """An OpenAI-compatible endpoint. Without `base_url` only `--teacher rules` works."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str = ""
    """Address up to and with `/v1`, such as `http://127.0.0.1:1234/v1`."""
    model: str = ""
    """The model's name at that endpoint."""
    writer_model: str = ""
    """The model that writes candidates; empty takes `model`."""
    api_key_env: str = "LUNA_TEACHER_API_KEY"
    """Name of the environment variable that holds the key, which is never stored. Not set: no key is sent."""
    structured: Literal["auto", "schema", "plain"] = "auto"
    """Whether to ask with `response_format` json_schema; `auto` does until the endpoint refuses it."""
    timeout_s: float = Field(90, gt=0)
    """Longest time that one request may take, from connecting to the last byte."""
    requests_per_minute: float = Field(60, ge=0)
    """Requests begun a minute, retries too; 0 sets no limit."""
    concurrency: int = Field(4, ge=1, le=64)
    """Requests in flight at the same time."""
    max_retries: int = Field(5, ge=0, le=20)
    """Further tries for one answer or label, after a failed request or an answer that was refused. The `openai` client
    waits before each, or as long as the endpoint asks for; if that is over two minutes, the run stops until resumed."""
    max_reply_kib: int = Field(1024, ge=1)
    """Largest reply that is read."""
    max_judged_chars: int = Field(24_000, ge=100)
    """Longest prompt and answer together that are judged; longer ones are left out and named."""
    candidates: int = Field(4, ge=1, le=32)
    """Answers written for each prompt."""
    candidate_tokens: int = Field(600, ge=16)
    """Longest candidate."""
    candidate_temperature: float = Field(0.9, ge=0, le=2)
    label_tokens: int = Field(700, ge=64)
    """Longest label, rationale included."""
    price_in: float = Field(0.0, ge=0)
    """Price of a million prompt tokens, in whatever currency the bill has."""
    price_out: float = Field(0.0, ge=0)
    """Price of a million answer tokens."""
    max_cost: float = Field(0.0, ge=0)
    """Stop when a run's cost reaches this, in the same currency; 0 sets no limit."""
    seed: int = Field(1, ge=0)
    """Sent with each request, for endpoints that draw from it."""


def endpoint_url(settings: TeacherSettings) -> str:
    """`base_url` without a slash at its end, checked.

    Raises:
        LunaError: it or `model` is missing, it is no http address, or it holds a password.
    """
    if not settings.base_url or not settings.model:
        missing = "base_url" if not settings.base_url else "model"
        raise LunaError(
            f"no teacher: [teacher] {missing} is not set. Set base_url and model in luna.toml or with --base-url and "
            "--model, or label without a model by `--teacher rules`."
        )
    try:
        parts = urlsplit(settings.base_url)
        host = parts.hostname if parts.port != 0 else None
    except ValueError:  # a port that is none, half a bracket
        parts, host = urlsplit(""), None
    if parts.username or parts.password:
        raise LunaError("[teacher] base_url holds a user name or password; keep keys in an environment variable.")
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[\w.:%-]+", host or ""):
        raise LunaError(
            f"[teacher] base_url is {settings.base_url!r}; write an address such as http://127.0.0.1:1234/v1."
        )
    if parts.query or parts.fragment:
        raise LunaError("[teacher] base_url has a ? or # part; end it with its path, such as /v1.")
    return settings.base_url.rstrip("/")


def api_key(settings: TeacherSettings, environment: Mapping[str, str] = os.environ) -> str | None:
    """The key from the named environment variable, or None where that is not set.

    Raises:
        LunaError: the setting looks like a key instead of a name (which is then not repeated), or the key is not
            printable ASCII.
    """
    if not settings.api_key_env:
        return None
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*", settings.api_key_env):
        raise LunaError(
            "[teacher] api_key_env is no name of an environment variable (capitals, digits and _). If it is the key "
            "itself, take it out of the settings, and put it into a variable that you name here."
        )
    key = environment.get(settings.api_key_env, "").strip()
    if not key:
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise LunaError(f"the key in {settings.api_key_env} has spaces or unprintable characters; set it again.")
    return key
