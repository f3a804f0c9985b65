"""How Luna must not sound: what a user says to hear it (`probes`), and what gives it away (`detector`).

The detector's patterns are in `curriculum/data/corporate_phrases.toml`, by family. To add one: write it there, and
sentences that it must find and must leave alone in `tests/curriculum/data/tone_sentences.toml`, which measures it.
"""

from curriculum.tone.detector import corporate_phrase
from curriculum.tone.probes import TONE_PROBES

__all__ = ["TONE_PROBES", "corporate_phrase"]
