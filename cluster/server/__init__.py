"""The coordinator's side of serving: starting the server, telling it what to serve, asking it to measure and score.

Nothing here imports the coordinator, which uses `client` itself; `start` is handed what finds it.
"""
