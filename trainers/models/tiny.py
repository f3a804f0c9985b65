"""The `tiny` base: a Llama of about a million parameters made from a seed, for tests that take seconds.

Its weights are random, so it knows nothing; adapters can still teach it small things, which is what tests need. Its
tokenizer maps each UTF-8 byte to one token.
"""

from __future__ import annotations

from pathlib import Path

SEED = 20_260_101
"""Makes the same weights, and so the same base SHA, everywhere."""


def make_tiny_base(folder: Path) -> None:
    """Write model and tokenizer in Hugging Face's format into `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = LlamaForCausalLM(config)
        # Transformers' own init (0.02) leaves a random block almost silent and bounds the logits near zero, so that
        # adapters could not learn. Unit-variance products and louder embeddings make random features usable.
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                torch.nn.init.normal_(weight, std=0.25 if "embed" in name else weight.shape[1] ** -0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def byte_tokenizer():  # type: ignore[no-untyped-def]  # transformers' classes are untyped
    """256 byte tokens and one end-of-text token, as a fast tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
