"""What happened, and the rules that decide.

    store.py                        `Ledger`, the chain of judged generations; `Stores` opens all three stores at once
    journal.py  conversations.py    which run reached which step; what users said, and what it earned (scores.py)
    records.py  roles.py            the rows of the ledger; the three roles
    judgement.py                    what must hold before a verdict enters the ledger
    rules/                          decisions as pure functions, each with its settings
    database/                       SQLite: connection, migrations, the hash chain, the CSV
    verification/                   recomputing every hash and link of a home
    home.py  files.py  metadata.py  where things lie, atomic writes, what an adapter's folder says about itself
    logs.py  clock.py  intervals.py  errors.py

This is the lowest layer: every other package may import it, and it imports none of them, and neither torch nor Ray.
To record another kind of thing in the chain: a record in `records.py`, a method of `Ledger` that appends it, and its
checks in `verification/ledger.py`. To add a table: a step at the end of `database/migrations.py` and a store that takes
the database. To add a rule: a module in `rules/`.
"""
