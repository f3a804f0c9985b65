"""Names of the ages: a lineage's generation number seen as development (DESIGN section 1)."""

from __future__ import annotations

AGES: tuple[str, ...] = ("mechanical", "vocabulary", "patterns", "understanding", "reasoning", "personality")

ADVANCED = "advanced"
"""Every age after the last named one."""


def age_name(age: int) -> str:
    """Name of an age, 0 or more."""
    if age < 0:
        raise ValueError(f"age must be 0 or more; got {age}")
    return AGES[age] if age < len(AGES) else ADVANCED
