"""Sizes and bounds of the evaluation."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from ledger.rules.certainty import BLOCK, MOST_ITEMS


class EvalSettings(BaseModel):
    """How much each role is asked, and how long it may answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: int = Field(MOST_ITEMS, ge=1)
    """Most items of a recall or generalization set."""
    block: int = Field(BLOCK, ge=1)
    """Items that such a set is asked at a time, until the verdict is certain."""
    bound_items: int = Field(60, ge=0)
    """Most open items whose answers are also tried under other items' prompts, twenty at a time until it is certain;
    of fewer than twenty there is no score."""
    kept_nats: float = Field(0.25, ge=0)
    """How much less likely, in nats a token, an earlier answer may become and still count as kept."""
    agl_items: int = Field(140, ge=14)
    """Held-out puzzles behind the logical role's `agl_accuracy`, spread evenly over the fourteen families; two fifths
    as many for the other roles."""
    extra_items: int = Field(50, ge=0)
    """Items behind each of `role_understanding` and `tool_syntax`; of fewer than 50 no capability is made."""
    answer_tokens: int = Field(12, ge=1)
    """Longest generated answer to a closed question, without its end."""
    probe_tokens: int = Field(40, ge=1)
    """Longest generated answer to a tone probe."""
    everyday_items: int = Field(120, ge=0)
    """Most everyday questions that the untouched base gets right and a generation is asked again; 0 asks none."""
    everyday_tokens: int = Field(24, ge=1)
    """Longest generated answer to an everyday question."""
    corporate_phrases: tuple[str, ...] = ()
    """Further phrases that make an answer count as corporate; case and white space do not matter."""
