"""The engines: vLLM, and Hugging Face transformers with PEFT where that cannot be installed.

`validate` says which adapters any of them may be given; `cpu_lora` is vLLM's LoRA on a CPU.

To add an engine: write a module with a class that fulfils `serving.engine.Engine`, its library imported inside its
methods; add its name to `EngineName` and `choose` in `serving.engine`, to `[serving] engine` in `serving.settings`, and
to `_engine` in `serving.engine_app`. One without an OpenAI application of its own gets `serving.api.openai_app`'s.
`tests/serving/test_transformers_engine.py` has what an engine must do.
"""
