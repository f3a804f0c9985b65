"""What the steps of a generation are made of: their records, and one file for each thing that a step does.

To add a step: a record in `records.py` with the step's name, the name in `ledger.journal.Step`, and a method of
`cluster.generation.GenerationRun` that takes the records it needs and returns its own.
"""
