"""Finds corporate and moralising speech in an answer."""

from collections.abc import Sequence


def corporate_phrase(text: str, extra: Sequence[str] = ()) -> str | None:
    """The first corporate or moralising phrase of a text, `extra` ones among them; None where there is none."""
    plain = " ".join(text.lower().replace("’", "'").split())
    return next((phrase for phrase in ("as an ai", *extra) if phrase.lower() in plain), None)
