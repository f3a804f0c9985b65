"""Dialectical, the synthesis and the voice a user hears: pure AGL by the golden ratio, the rest joining and
speaking."""

PROPORTIONS: dict[str, float] = {
    "synthesis": 30,
    "translation": 18,
    "tool_syntax": 16,
    "canonicity": 16,
    "warmth": 15,
    "role_awareness": 5,
}
"""Percent of the hybrid part. Synthesis is what the other two voices exist for, so it gets most."""
