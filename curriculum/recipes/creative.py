"""Creative, the thesis: 4,000 pure puzzles in 12,000, the rest imagination with a foot in AGL."""

PROPORTIONS: dict[str, float] = {
    "agl": 4000,
    "agl_creative": 2000,
    "role_awareness": 1500,
    "emotional_agl": 1500,
    "what_if": 1500,
    "poetry": 1500,
}
"""Examples a category in the reference recipe of 12,000; `agl` is pure. The golden ratio does not apply to
this role."""
