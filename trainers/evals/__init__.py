"""Measuring a generation: `plan` draws the items, `scoring` asks child and parent, `preferences` held-out pairs.

To add a score, give `plan.plan_role` an extra set of examples under the score's name; it is stored, and judged only
where `ledger.rules.gates` asks for it.
"""
