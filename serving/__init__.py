"""Serving: the Ray Serve app that answers users (vLLM engine, reward model, HTTP gateway, chat page).

The package is empty for now: generations are trained, judged and recorded without it. Evaluation asks a small
`Generator` protocol, so that a serving engine can later stand in for a model in memory without a change there.
"""
