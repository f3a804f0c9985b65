"""Decisions as pure functions: gates, stop rule, blends, karma, cadence, ages."""
