"""Stub."""

from __future__ import annotations

from curriculum.probes import CORPORATE_PHRASES, TONE_PROBES

__all__ = ["TONE_PROBES", "corporate_phrase"]


def corporate_phrase(text: str, extra: tuple[str, ...] = ()) -> str | None:
    """The corporate phrase in a text, or None."""
    folded = " ".join(text.lower().split())
    return next((phrase for phrase in (*CORPORATE_PHRASES, *extra) if phrase.lower() in folded), None)
