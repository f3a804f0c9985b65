"""Sample dialogues from the PyPI package `chatterbot-corpus` (BSD licence): question and answer pairs by
topic.

The package is read as files and never imported. One answer is kept for every question, so that a prompt has
one right answer; text with HTML or code is left out.
"""

import importlib.util
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from curriculum.example import Example, make_example
from ledger.errors import LunaError
from ledger.roles import Role

MAX_WORDS = 30
"""Longest question or answer that is taken, in words."""

_MARKUP = re.compile(r"```|<[/a-zA-Z][^>]*>|&\w+;|^\s{4,}\S", re.MULTILINE)

# How the lines of a conversation hang together, where it is not turn after turn.
_ALTERNATIVES = frozenset({"ai", "computers", "emotion"})  # one question, then several answers to it
_FLAT_PAIRS = frozenset({"literature", "trivia"})  # question, answer, question, answer


def dialogue_topics(language: str = "english") -> list[str]:
    """The topics (file names without `.yml`) of the installed corpus. Raises `LunaError` if it is not
    installed."""
    return sorted(path.stem for path in _corpus_folder(language).glob("*.yml"))


def dialogue_examples(
    role: Role, topics: Sequence[str] | None = None, *, max_words: int = MAX_WORDS, language: str = "english"
) -> list[Example]:
    """The dialogue pairs of the topics (default: all) as hybrid examples of stage `conversations`, in file
    order.

    Category `dialogue/<topic>`. Questions are kept once, case ignored. Raises `LunaError` for an unknown
    topic, a limit below 1, or when the package is missing.
    """
    if max_words < 1:
        raise LunaError(f"max_words is {max_words}; it is the longest question or answer in words, at least 1.")
    folder, known = _corpus_folder(language), dialogue_topics(language)
    for topic in topics or ():
        if topic not in known:
            raise LunaError(f"the dialogue corpus has no topic {topic!r}; choose from {', '.join(known)}.")
    examples: list[Example] = []
    seen: set[str] = set()
    for topic in known if topics is None else topics:
        for question, answer in _topic_pairs(folder / f"{topic}.yml", max_words):
            if question.casefold() in seen:
                continue
            seen.add(question.casefold())
            examples.append(
                make_example(
                    role=role,
                    stage="conversations",
                    category=f"dialogue/{topic}",
                    kind="hybrid",
                    input=question,
                    output=answer,
                    source=f"dialogue/{topic}",
                )
            )
    return examples


def pair_up(lines: Sequence[str], topic: str) -> Iterator[tuple[str, str]]:
    """(question, answer) pairs of one conversation: turn after turn unless its topic is listed otherwise."""
    if topic in _ALTERNATIVES:
        yield from itertools.pairwise(lines[:2])
    elif topic in _FLAT_PAIRS:
        yield from zip(lines[::2], lines[1::2], strict=False)
    else:
        yield from itertools.pairwise(lines)


def _topic_pairs(path: Path, max_words: int) -> Iterator[tuple[str, str]]:
    for conversation in _load_conversations(path):
        lines = [line if isinstance(line, str) else "" for line in conversation]
        for question, answer in pair_up(lines, path.stem):
            if _is_usable(question, max_words) and _is_usable(answer, max_words):
                yield " ".join(question.split()), " ".join(answer.split())


def _is_usable(text: str, max_words: int) -> bool:
    return 1 <= len(text.split()) <= max_words and not _MARKUP.search(text)


def _load_conversations(path: Path) -> Iterable[Sequence[Any]]:
    import yaml

    # The C loader reads the corpus some eight times faster; a build of PyYAML without it has only the plain
    # one.
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        table = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
        conversations: list[Sequence[Any]] = table["conversations"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise LunaError(f"{path} cannot be read as a dialogue file ({error}); reinstall chatterbot-corpus.") from error
    return conversations


def _corpus_folder(language: str) -> Path:
    spec = importlib.util.find_spec("chatterbot_corpus")
    roots = list(spec.submodule_search_locations or ()) if spec else []
    if not roots:
        raise LunaError("sample dialogues need the package chatterbot-corpus, which is missing; install it with pip.")
    folder = Path(roots[0]) / "data" / language
    if not folder.is_dir():
        raise LunaError(f"the dialogue corpus has no language {language!r}; there is no folder {folder}.")
    return folder
