"""What is reached over HTTP, free of Ray.

`guard` stands before everything, `front` before an engine's OpenAI application, of which `openai_app` is our own.
`gateway` has the paths of the page's own API, with `schemas` for what they take, over `exchange` (from a question to a
stored answer), `lineage` (the record) and `reward` (scores). `errors` and `events` are how all of them answer.

To add a path: a function in the `_add_...` of `gateway` that it belongs to, its models in `schemas`. It is behind the
key unless `OPEN_PATHS` names it.
"""
