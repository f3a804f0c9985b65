"""The engine on TRL and PEFT: the fallback for other model families, and what the fused engine is checked against.

`engine` trains one role after another, `generator` answers through Hugging Face's own forward. A model family that
transformers loads as a causal LM needs nothing here.
"""
