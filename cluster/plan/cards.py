"""What a card is worth, by the name that torch gives it. From the vendors' data sheets, not measured.

Names that are not listed count as the slowest that is; a plan says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Dense bfloat16 products with float32 sums, and memory bandwidth."""

    tflops: float
    tb_per_s: float


CARDS = {
    "H200": Card(989.0, 4.8),
    "H100": Card(989.0, 3.35),
    "H100 PCIe": Card(756.0, 2.0),
    "H100 NVL": Card(835.0, 3.9),
    "A100": Card(312.0, 1.555),
    "L40S": Card(362.0, 0.864),
    "L4": Card(121.0, 0.3),
    "RTX 4090": Card(165.2, 1.008),
    "RTX 3090": Card(71.0, 0.936),
    "MI300X": Card(1307.0, 5.3),
    "RX 7900 XTX": Card(122.8, 0.96),
    "RX 7600 XT": Card(45.1, 0.288),
}
SLOWEST = min(CARDS.values(), key=lambda card: card.tflops)


def card_of(name: str) -> Card | None:
    """The entry whose name fits best; None if none does."""
    words = " ".join(re.findall(r"[a-z0-9]+", name.lower()))
    fits = [key for key in CARDS if all(re.search(rf"\b(g?){word}\b", words) for word in key.lower().split())]
    return CARDS[max(fits, key=len)] if fits else None


def peak_tflops(name: str) -> float | None:
    """Products a second of a card, in 10^12; None if it is not listed."""
    card = card_of(name)
    return card.tflops if card else None
