"""A manual, plain text or Markdown, as passages: each one the answer to a question about its section.

Sections come from headings: `# Title` and underlined titles in Markdown and text, and in text also short
lines that stand alone in capitals or begin with a number such as `2.1 Safety`. Fenced code and YAML front matter are
left out, and noted. A passage holds whole paragraphs of one section up to `MAX_PASSAGE_WORDS`; a longer paragraph is
cut at sentence ends, a longer sentence at words. List items and rows of tables keep their lines.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from curriculum.importing.found import Lesson, Note
from ledger.files import sha256_bytes

NAME = "manual"

MAX_PASSAGE_WORDS = 60
"""Longest passage, in words; about 80 tokens."""

_MOST_FRONT_MATTER = 200
_FRONT_MATTER = re.compile(r"[\w.-]+\s*:|[ \t]+\S|- |#")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_ITEM = re.compile(r"[-*+] |\d{1,3}[.)] |\|")
_HASH_HEADING = re.compile(r"(#{1,6})\s+(.+?)\s*#*")
_RULE = re.compile(r"={3,}|-{3,}|\*{3,}|_{3,}")
_NUMBERED = re.compile(r"(\d+(?:\.\d+)*)\.?\s+[A-Z].{0,60}")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")


@dataclass(frozen=True, slots=True)
class Passage:
    section: str
    """Path of headings, joined by ` > `; empty before the first heading."""
    text: str
    line: int
    """Line of the file on which it begins, from 1."""


def manual_lessons(text: str, name: str, *, markdown: bool, note: Note) -> list[tuple[int, Lesson]]:
    """The passages of a manual called `name`, with their lines, as hybrid lessons of stage and category `manual`."""
    group = f"document/{sha256_bytes((name + chr(0) + text).encode())[:12]}"
    parts: Counter[str] = Counter()
    lessons = []
    for passage in split_manual(text, markdown=markdown, note=note):
        parts[passage.section] += 1
        question = _question(passage.section, name, parts[passage.section])
        lessons.append(
            (
                passage.line,
                Lesson(question, passage.text, stage="manual", category=NAME, kind="hybrid", group=group),
            )
        )
    return lessons


def split_manual(text: str, *, markdown: bool, note: Note = lambda _: None) -> list[Passage]:
    """All passages in order; tells `note` what is left out."""
    passages: list[Passage] = []
    section, pieces, words, begin = "", list[str](), 0, 0

    def close() -> None:
        nonlocal pieces, words
        if pieces:
            passages.append(Passage(section, "\n".join(pieces), begin))
        pieces, words = [], 0

    for block in _blocks(text, markdown=markdown, note=note):
        if block.section != section:
            close()
            section = block.section
        for piece in _pieces(block.text):
            more = len(piece.split())
            if pieces and words + more > MAX_PASSAGE_WORDS:
                close()
            begin = begin if pieces else block.line
            pieces.append(piece)
            words += more
    close()
    return passages


def _question(section: str, name: str, part: int) -> str:
    """A question that quotes nothing of its answer, so that copying does not answer it."""
    place = f'"{section}" in {name}' if section else name
    return f"What does {place} say?" if part == 1 else f"What does {place} say, part {part}?"


def _blocks(text: str, *, markdown: bool, note: Note) -> Iterator[Passage]:
    """Paragraphs with the heading path above them."""
    path: dict[int, str] = {}
    paragraph: list[str] = []
    begin = 0
    lines = _without_code(text.split("\n"), note)
    for number, line in enumerate([*lines, ""], start=1):
        stripped = line.strip()
        after = lines[number].strip() if number < len(lines) else ""
        heading = _heading(stripped, after, alone=not paragraph, markdown=markdown)
        if not stripped or heading or _is_rule(stripped):
            if paragraph:
                yield Passage(" > ".join(path.values()), _joined(paragraph), begin)
                paragraph = []
            if heading:
                level, title = heading
                path = {above: name for above, name in path.items() if above < level} | {level: title}
            continue
        begin = begin if paragraph else number
        paragraph.append(stripped)


def _joined(lines: list[str]) -> str:
    """The lines of a paragraph as one, but for items of a list and rows of a table."""
    return "".join(f"{chr(10) if _ITEM.match(line) else ' '}{line}" for line in lines).strip()


def _without_code(lines: list[str], note: Note) -> list[str]:
    """The lines, those of front matter and fenced code empty.

    A fence ends at a line of its own kind that is at least as long. One that never ends is none, so that it does not
    take the rest of the manual with it.
    """
    kept = list(lines)
    if kept and kept[0].strip() == "---":
        end = next((n for n, line in enumerate(kept[1:_MOST_FRONT_MATTER], 1) if line.strip() in ("---", "...")), 0)
        if end and all(not line.strip() or _FRONT_MATTER.match(line) for line in kept[1:end]):
            kept[: end + 1] = [""] * (end + 1)
            note("front matter of manuals")
    number = 0
    while number < len(kept):
        fence = _FENCE.match(kept[number])
        if fence:
            closing = re.compile(rf" {{0,3}}{re.escape(fence[1][0])}{{{len(fence[1])},}}\s*")
            end = next((n for n in range(number + 1, len(kept)) if closing.fullmatch(kept[n])), 0)
            note("blocks of code in manuals" if end else "openings of code blocks that are never closed")
            last = end or number
            kept[number : last + 1] = [""] * (last + 1 - number)
            number = last
        number += 1
    return kept


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
    """The paragraph, or its lines, or its sentences, or parts of a sentence, so that each has at most
    `MAX_PASSAGE_WORDS` words."""
    if len(paragraph.split()) <= MAX_PASSAGE_WORDS:
        yield paragraph
        return
    for sentence in _SENTENCE_END.split(paragraph):
        words = sentence.split()
        for start in range(0, len(words), MAX_PASSAGE_WORDS):
            yield " ".join(words[start : start + MAX_PASSAGE_WORDS])
