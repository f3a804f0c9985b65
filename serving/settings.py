"""The `[serving]` table of a home's settings. It decides how answers are given, not what is learned."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


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
    max_model_len: int = Field(1024, ge=128)
    """Longest prompt and answer together, in tokens."""
    max_num_seqs: int = Field(16, ge=1)
    """Requests that are decoded at the same time."""
    max_rank: Literal[8, 16, 32, 64, 128, 256] = 32
    """Largest adapter rank that there is room for (the sizes that vLLM knows)."""
    generations: int = Field(3, ge=2)
    """Generations held ready: the head, the one before it, and candidates. Each needs three adapter slots."""
    adapters_in_batch: int = Field(4, ge=1)
    """Adapters that the requests of one batch may use; requests for further ones wait a moment."""
    max_waiting: int = Field(64, ge=1)
    """Requests in flight; more are answered with 429."""
    max_body_kib: int = Field(256, ge=1)
    """Largest request body."""
    max_tokens: int = Field(512, ge=1)
    """Most tokens that one answer may have."""
    answer_tokens: int = Field(200, ge=1)
    """Most tokens of an answer in a conversation, where the request does not say."""
    context_turns: int = Field(3, ge=0)
    """Earlier exchanges of a conversation that stand before the question; 0 makes every question the first."""
    requests_per_minute: int = Field(600, ge=1)
    """For each key, or without a key for each address; more are answered with 429."""
    allowed_origins: tuple[str, ...] = ()
    """Other web origins (`https://example.org`) whose pages may use this server. Its own page always may."""
    evaluate_candidates: bool = True
    """Measure a new generation through this server, where it is up, instead of on the trainers' model."""
    gpu_share: float = Field(0.4, gt=0, le=1)
    """Share of a GPU's memory for serving; training takes the rest."""
    reward_replicas: int = Field(1, ge=1)
    """Copies of the reward model."""
    reward_batch: int = Field(16, ge=1)
    """Pairs that a copy scores together at most."""
    reward_wait_ms: float = Field(5.0, ge=0)
    """How long the first pair of a batch waits for others, in milliseconds."""
    reward_batches: int = Field(2, ge=1)
    """Batches that a copy scores side by side, each on one thread."""
    reward_queue: int = Field(256, ge=1)
    """Answers that may wait for their score in the background; more are left unscored and counted."""
    cpu_cache_gib: int = Field(1, ge=1)
    """Key-value cache on a CPU; on a GPU vLLM takes its share of the card."""
