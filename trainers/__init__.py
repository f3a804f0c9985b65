"""Learning: the base model, the trio trainer and its reference in TRL, checkpoints, adapters, evaluation.

Plain classes and functions on torch; no Ray and no HTTP, so that everything here runs in one process, in a test or
inside an actor alike. `cluster` and `jobs` may import it; `serving` may not, and it imports only `curriculum` and
`ledger`.
"""
