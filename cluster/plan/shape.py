"""The sizes of a decoder of the Llama shape, as its config.json gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ledger.errors import LunaError

_GROUPS = ((0, 1, 2), (3,), (4, 5), (6,))
"""The modules whose products are made together: queries, keys and values; output; gate and up; down."""


@dataclass(frozen=True)
class BaseShape:
    """L layers of width D, a gated layer of width I, H query and K key heads of width d, V tokens."""

    layers: int
    width: int
    inner: int
    heads: int
    key_heads: int
    head_width: int
    vocabulary: int
    tied: bool
    """Whether the output layer is the embedding."""

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> BaseShape:
        """From the values of a config.json.

        Raises:
            LunaError: it does not describe such a decoder.
        """
        try:
            heads, width = int(config["num_attention_heads"]), int(config["hidden_size"])
            return cls(
                layers=int(config["num_hidden_layers"]),
                width=width,
                inner=int(config["intermediate_size"]),
                heads=heads,
                key_heads=int(config.get("num_key_value_heads") or heads),
                head_width=int(config.get("head_dim") or width // heads),
                vocabulary=int(config["vocab_size"]),
                tied=bool(config.get("tie_word_embeddings", False)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LunaError(
                f"the base's config.json says nothing usable of {error}; a plan needs the sizes of a decoder."
            ) from error

    @property
    def modules(self) -> tuple[tuple[int, int], ...]:
        """(out, in) of the seven linear layers of a block, in the order of `trainers.lean.TARGET_MODULES`."""
        q, k = self.heads * self.head_width, self.key_heads * self.head_width
        return (
            (q, self.width), (k, self.width), (k, self.width), (self.width, q),
            (self.inner, self.width), (self.inner, self.width), (self.width, self.inner),
        )  # fmt: skip

    @property
    def linear_parameters(self) -> int:
        """Of the linear layers of all blocks."""
        return self.layers * sum(out * inside for out, inside in self.modules)

    @property
    def vocabulary_parameters(self) -> int:
        """Of the embedding, and of the output layer where it is another."""
        return self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All but biases and norms, which are a thousandth."""
        return self.linear_parameters + self.vocabulary_parameters

    @property
    def widest_group(self) -> int:
        """Weights of the largest group of modules that are multiplied together."""
        return max(sum(self.modules[at][0] * self.modules[at][1] for at in group) for group in _GROUPS)

    def adapter_parameters(self, rank: int) -> int:
        """Of one role's adapter, A and B of every linear layer."""
        return self.layers * rank * sum(out + inside for out, inside in self.modules)

    def diagonal_parameters(self, rank: int) -> int:
        """Of the copies of one role's B matrices that stand side by side for the products of each group."""
        by_group = (sum(self.modules[at][0] for at in group) * len(group) * rank for group in _GROUPS)
        return self.layers * sum(by_group)
