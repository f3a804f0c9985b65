"""`luna ledger verify`: recomputing every hash and link of a home.

`ledger` checks the chain and the CSV, `derived` the tables beside them, `files` what they name, `weights` has the hash
that names a base. To add a check: a generator of `problems.Problem` that `ledger.verify` runs.
"""
