"""Decisions as pure functions: gates, stop rule, blends, karma, cadence, age-ups and ages.

To add a rule: a module with one frozen settings class (a table of `luna.toml`, named in `cluster/settings.py`) and a
function from measured values to a decision that carries its reason. To add a gate: a name in `gates.GATES` with its
bound, and a score of that name.
"""
