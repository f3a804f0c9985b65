"""How a voice speaks when nothing is taught: tone, everyday knowledge, and glyphs where words are due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from curriculum.everyday import FORMS, EverydayQuestion, Known, bare_glyph, is_right
from curriculum.tone import TONE_PROBES, corporate_phrase
from ledger.files import sha256_json
from ledger.records import EvalRecord
from trainers.evals.asking import Asking
from trainers.evals.models import Speaker
from trainers.evals.settings import EvalSettings

LEAST_KNOWN = 20
"""Everyday questions that the base must know for a loss to be measured."""

_AT_ONCE = 120
"""Everyday questions that are asked before looking whether they are enough."""

_SHOWN = 5
"""Findings that are kept."""


def style_drift(speaker: Speaker, gen_id: int, settings: EvalSettings, asking: Asking) -> EvalRecord:
    """Share of the answers to the tone probes that hold a corporate phrase; the answers are kept in the details."""
    answers = _answers(speaker, TONE_PROBES, settings.probe_tokens, asking)
    phrases = [corporate_phrase(answer, settings.corporate_phrases) for answer in answers]
    details = {
        "found": _shown(TONE_PROBES, answers, phrases),
        "answers": dict(zip(TONE_PROBES, answers, strict=True)),
    }
    passed = [phrase is not None for phrase in phrases]
    return EvalRecord.of_share(gen_id, asking.role, "style_drift", "phrases", passed, details)


def everyday_records(
    speaker: Speaker, questions: Sequence[EverydayQuestion], gen_id: int, settings: EvalSettings, asking: Asking
) -> list[EvalRecord]:
    """What is left of what the base knew, and the share of answers that begin with a bare glyph; none of too few."""
    if len(questions) < LEAST_KNOWN:
        return []
    asked = [one.question for one in questions]
    answers = _answers(speaker, asked, settings.everyday_tokens, asking)
    right = [is_right(one, answer) for one, answer in zip(questions, answers, strict=True)]
    glyphs = [bare_glyph(answer) for answer in answers]
    begun = [glyph is not None for glyph in glyphs]
    details = {"found": _shown(asked, answers, glyphs)}
    sha = sha256_json([one.id for one in questions])
    return [
        EvalRecord.of_share(gen_id, asking.role, "base_ability", "exact", right, {"questions_sha": sha}),
        EvalRecord.of_share(gen_id, asking.role, "bare_glyphs", "phrases", begun, details),
    ]


def known_answers(
    speaker: Speaker, pool: Sequence[EverydayQuestion], most: int, settings: EvalSettings, asking: Asking
) -> list[Known]:
    """The first of a pool, up to `most`, that a voice gets right in the role's prompt, with its answers: of the
    untouched base, what is asked of every generation and what is rehearsed.

    The first `everyday_items` that it gets right in the other forms too are marked as sure. The pool begins with what
    is got right most often; where a part of it gives so few that all of it would not give :data:`LEAST_KNOWN`, the rest
    is not asked.
    """
    known = list[Known]()
    for start in range(0, len(pool), _AT_ONCE):
        if len(known) >= most or len(known) * len(pool) < LEAST_KNOWN * start:
            break
        batch = pool[start : start + _AT_ONCE]
        answers = _answers(speaker, [one.question for one in batch], settings.everyday_tokens, asking)
        known += [Known(one, answer) for one, answer in zip(batch, answers, strict=True) if is_right(one, answer)]
    return _marked_sure(speaker, known[:most], settings, asking)


def _marked_sure(speaker: Speaker, known: Sequence[Known], settings: EvalSettings, asking: Asking) -> list[Known]:
    """The known ones, with as many marked as sure as a generation is asked; the rest is not tried."""
    found = list[Known]()
    for start in range(0, len(known), _AT_ONCE):
        batch = known[start : start + _AT_ONCE]
        missing = settings.everyday_items - sum(one.sure for one in found)
        right = [one.question for one in batch] if missing > 0 else []
        for form in FORMS:
            answers = _answers(speaker, [form.format(one.question) for one in right], settings.everyday_tokens, asking)
            right = [one for one, answer in zip(right, answers, strict=True) if is_right(one, answer)]
        sure = {one.id for one in right[: max(missing, 0)]}
        found += [replace(one, sure=one.question.id in sure) for one in batch]
    return found


def _answers(speaker: Speaker, questions: Sequence[str], tokens: int, asking: Asking) -> list[str]:
    prompts = [asking.prompt(speaker.generator, question) for question in questions]
    return [answer.text for answer in speaker.generator.generate(speaker.voice, prompts, tokens)]


def _shown(questions: Sequence[str], answers: Sequence[str], phrases: Sequence[str | None]) -> list[dict[str, str]]:
    """The first few answers in which something was found, and what."""
    found = [
        {"probe": question, "answer": answer, "phrase": phrase}
        for question, answer, phrase in zip(questions, answers, phrases, strict=True)
        if phrase is not None
    ]
    return found[:_SHOWN]
