"""The frozen base (`frozen`, `tiny`) and the adapters over it (`adapters`, `adapter_set`), as files in a home.

To add a kind of base, add a branch to `frozen._fill` that writes model and tokenizer in Hugging Face's format.
"""
