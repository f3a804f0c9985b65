"""The fast forward and backward of Llama and Qwen2 shapes over packed rows; knows neither examples nor datasets.

`model` is the forward, `ops` its parts with their backward written out, `adapter_bank` the adapters in flat buffers,
`nf4` the base in four bits, `packing` rows with shared prefixes, `logprobs` the fused cross-entropy, `lanes` threads on a CPU, `generator` decoding
and scoring, `base` what the rest of `trainers` is handed.

To add a model family, name it in `model.SUPPORTED_FAMILIES`, refuse in `why_unsupported` what it computes otherwise,
and add it to the exactness tests, which compare with Hugging Face and TRL.
"""
