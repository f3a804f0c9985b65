"""Logical, the antithesis: pure AGL by the golden ratio, the rest arguments and what limits them."""

PROPORTIONS: dict[str, float] = {
    "argument": 24,
    "counter_argument": 24,
    "constraint": 16,
    "edge_case": 16,
    "critique": 15,
    "role_awareness": 5,
}
"""Percent of the hybrid part. Arguing for and against is the role's daily work, so both get a quarter;
limits, edge cases and critique share the rest; a little role awareness keeps the voice able to say which one
it is."""
