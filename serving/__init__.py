"""Serving: the Ray Serve apps that answer users.

What an engine is (`engine`), which name means which adapter (`table`) and the settings know nothing of HTTP or Ray.
`engines/` holds the engines, `api/` what is reached over HTTP, `page/` the chat page. `engine_app` and `reward_app` are
one replica each, and `app` puts everything on Ray Serve. What the ledger says replicas ask for through `accepted`,
since only the gateway runs where `luna.db` may be opened. The two sub-packages meet only there: an engine never imports
`api`, and `api` knows no engine but the protocol.

Only `jobs` and `cluster` import this package; it imports `curriculum` and `ledger`, never `trainers`.
"""
