"""Serving: the Ray Serve app that answers users.

`table` says which name means which adapter, `validate` which adapters the engine may be given, `vllm_engine` holds
vLLM's engine and its OpenAI application, `front` stands before that application and binds every request to one adapter,
`app` puts them into one Ray Serve deployment. Only `jobs` and `cluster` import this package; it imports `curriculum`
and `ledger`, never `trainers`.
"""
