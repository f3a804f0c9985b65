"""SQLite under the ledger: connection, migrations, the hash chain, queries, and the CSV derived from it.

To change the schema: a new step at the end of `migrations.MIGRATIONS`; those before it are never edited.
"""
