"""`luna teach`: have answers written and judged by a teacher.

`commands` is what the user types, `tasks` works off what has no row yet, `rows` keeps rows and manifests through a
kill, `endpoint` is the network, and `budget` counts what it costs. To add another kind of row, write a function beside
`write_candidates` that fills a `_Task`.
"""
