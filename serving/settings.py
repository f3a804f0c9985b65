"""The `[serving]` table of a home's settings. It decides how answers are given, not what is learned."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from curriculum.transcript import LengthSettings
from ledger.rules.gates import GateSettings


class ServingSettings(BaseModel):
    """Where and how Luna is served."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """What generates; `auto` takes vLLM where it is installed."""
    replicas: int = Field(1, ge=1)
    """Copies of the engine. With two, requests go on while one is replaced; each needs its own memory (or GPU)."""
    host: str = "127.0.0.1"
    """Address to listen on. Any other than a loopback address needs the environment variable LUNA_API_KEY."""
    port: int = Field(8000, ge=1, le=65535)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the base; `auto` takes vLLM's choice, and float32 on a CPU without native bfloat16."""
    max_num_seqs: int = Field(16, ge=1)
    """Requests that are decoded at the same time."""
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256] = 32
    """Largest adapter rank that there is room for (the sizes that vLLM knows)."""
    loaded_generations: int = Field(3, ge=2)
    """Generations held ready: the head, the one before it, and candidates. Each needs three adapter slots."""
    max_loras: int = Field(4, ge=1)
    """Adapters that the requests of one batch may use; requests for further ones wait a moment."""
    max_concurrent_requests: int = Field(64, ge=1)
    """Requests in flight; more are answered with 429."""
    max_body_kib: int = Field(2048, ge=1)
    """Largest request body. A client of /v1 sends the whole talk with every question."""
    max_tokens: int = Field(512, ge=1)
    """Most tokens that a request may ask for; an answer never has more than [text] max_tokens leaves it."""
    requests_per_minute: int = Field(600, ge=1)
    """Of all clients together; more are answered with 429. The gateway, /v1 and /reward count each for itself."""
    allowed_origins: tuple[str, ...] = ()
    """Other web origins (`https://example.org`) whose pages may use this server. Its own page always may."""
    evaluate_candidates: bool = True
    """Measure a new generation through this server, where it is up, instead of on the trainers' model."""
    gpu_memory_utilization: float = Field(0.4, gt=0, le=1)
    """Share of a GPU's memory for serving; training takes the rest."""
    cpu_kv_cache_gib: int = Field(1, ge=1)
    """Key-value cache on a CPU; on a GPU vLLM takes its share of the card."""

    @field_validator("allowed_origins")
    @classmethod
    def _as_browsers_write_them(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        """A browser's Origin header is compared letter by letter: another spelling would never match."""
        for origin in origins:
            if (wanted := _origin(origin)) != origin:
                hint = f"write {wanted!r}" if wanted else "write it as https://example.org"
                raise ValueError(f"{origin!r} is not an origin as browsers send it; {hint}")
        return origins


class SharedSettings(BaseModel):
    """Tables that serving shares with training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gates: GateSettings = GateSettings()
    text: LengthSettings = LengthSettings()


def _origin(text: str) -> str | None:
    """The origin of a web address: scheme, host, and a port other than the scheme's own. None if there is none."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    usual = {"http": 80, "https": 443}
    if parts.scheme not in usual or not parts.hostname:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if port in (None, usual[parts.scheme]) else f":{port}")
