"""A manual, plain text or Markdown, as passages: each one an example that asks about its section.

Sections come from headings: `# Title` and underlined titles in Markdown and text, and in text also short
lines that stand alone in capitals or begin with a number such as `2.1 Safety`. Fenced code is left out. A
passage holds whole paragraphs of one section up to `MAX_PASSAGE_WORDS`; a longer paragraph is cut at sentence
ends, a longer sentence at words.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from curriculum.example import Example, make_example
from ledger.roles import Role

MAX_PASSAGE_WORDS = 60
"""Longest passage, in words; about 80 tokens."""

_BEGINNING_WORDS = 5
_HASH_HEADING = re.compile(r"(#{1,6})\s+(.+?)\s*#*")
_RULE = re.compile(r"={3,}|-{3,}|\*{3,}|_{3,}")
_NUMBERED = re.compile(r"(\d+(?:\.\d+)*)\.?\s+[A-Z].{0,60}")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, slots=True)
class Passage:
    section: str
    """Path of headings, joined by ` > `; empty before the first heading."""
    text: str
    line: int
    """Line of the file on which it begins, from 1."""


def manual_examples(text: str, name: str, role: Role, *, markdown: bool, created_at: str = "") -> list[Example]:
    """The passages of a manual called `name` as hybrid examples of stage and category `manual`."""
    return [
        make_example(
            role=role,
            stage="manual",
            category="manual",
            kind="hybrid",
            input=_question(passage, name),
            output=passage.text,
            source=f"file/{name}:{passage.line}",
            created_at=created_at,
        )
        for passage in split_manual(text, markdown=markdown)
    ]


def split_manual(text: str, *, markdown: bool) -> list[Passage]:
    """All passages in order."""
    passages: list[Passage] = []
    section, words, begin = "", list[str](), 0

    def close() -> None:
        nonlocal words
        if words:
            passages.append(Passage(section, " ".join(words), begin))
        words = []

    for block in _blocks(text, markdown=markdown):
        if block.section != section:
            close()
            section = block.section
        for piece in _pieces(block.text):
            new = piece.split()
            if words and len(words) + len(new) > MAX_PASSAGE_WORDS:
                close()
            begin = begin if words else block.line
            words += new
    close()
    return passages


def _question(passage: Passage, name: str) -> str:
    beginning = " ".join(passage.text.split()[:_BEGINNING_WORDS])
    place = f'"{passage.section}" in {name}' if passage.section else name
    return f'What does {place} say where it begins "{beginning}"?'


def _blocks(text: str, *, markdown: bool) -> Iterator[Passage]:
    """Paragraphs with the heading path above them."""
    path: dict[int, str] = {}
    paragraph: list[str] = []
    begin = 0
    in_code = False
    lines = text.splitlines()
    for number, line in enumerate([*lines, ""], start=1):
        stripped = line.strip()
        if stripped.startswith(("```", "~~~")):
            in_code = not in_code
        after = lines[number].strip() if number < len(lines) else ""
        heading = None if in_code else _heading(stripped, after, alone=not paragraph, markdown=markdown)
        if not stripped or in_code or heading or _is_rule(stripped) or stripped.startswith(("```", "~~~")):
            if paragraph:
                yield Passage(" > ".join(path.values()), " ".join(paragraph), begin)
                paragraph = []
            if heading:
                level, title = heading
                path = {above: name for above, name in path.items() if above < level} | {level: title}
            continue
        begin = begin if paragraph else number
        paragraph.append(stripped)


def _heading(line: str, after: str, *, alone: bool, markdown: bool) -> tuple[int, str] | None:
    """(level, title) if the line is a heading; `after` is the next line, `alone`: no paragraph is open
    above."""
    if match := _HASH_HEADING.fullmatch(line):
        return len(match[1]), match[2]
    if not alone or not line or _is_rule(line):
        return None
    if _is_rule(after) and after[0] in "=-":
        return (1 if after.startswith("=") else 2), line
    if markdown or after:
        return None
    if match := _NUMBERED.fullmatch(line):
        return match[1].count(".") + 1, line
    return (1, line) if line.isupper() and len(line.split()) <= 8 else None


def _is_rule(line: str) -> bool:
    return bool(_RULE.fullmatch(line))


def _pieces(paragraph: str) -> Iterator[str]:
    """The paragraph, or its sentences, or parts of a sentence, so that each has at most `MAX_PASSAGE_WORDS`
    words."""
    if len(paragraph.split()) <= MAX_PASSAGE_WORDS:
        yield paragraph
        return
    for sentence in _SENTENCE_END.split(paragraph):
        words = sentence.split()
        for start in range(0, len(words), MAX_PASSAGE_WORDS):
            yield " ".join(words[start : start + MAX_PASSAGE_WORDS])
