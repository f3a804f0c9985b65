"""SQLite under the ledger: connection, migrations, the hash chain, queries."""
