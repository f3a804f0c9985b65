"""Serving: the Ray Serve apps that answer users.

`table` says which name means which adapter, `validate` which adapters an engine may be given; `engine` is what Luna
asks of one, `vllm_engine` and `transformers_engine` are the two there are. `front` stands before an engine's OpenAI
application and binds every request to one adapter, `engine_app` is one replica of both. `exchange` leads from a
question to a stored answer, `lineage` shows the record, `gateway` is their HTTP and the page in `page/`. `guard` stands
before everything, `app` puts it on Ray Serve. Only `jobs` and `cluster` import this package; it imports `curriculum`
and `ledger`, never `trainers`.
"""
