"""What Luna learns: AGL puzzles, role recipes, phases, dialogues, the user's own files, replay, holdouts,
tone probes.

Everything here is a pure function over `Example` records, or reads and writes one file. Imported by
`trainers`, `serving`, `cluster` and `jobs`; imports only `ledger`, and neither Ray nor torch.
"""
