"""Templates with slots, filled deterministically.

A template of `curriculum/data/recipes/<role>.toml` has an `id`, an `input`, one or more `output`s and, where
an answer replies to other voices, a `thesis` and an `antithesis`. Slots are written `{place}` or
`{thing[name]}`; a slot that a text repeats has one value throughout. Values are in `slots.toml`, in the
role's own `[slots]`, or computed here.
"""

import functools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from curriculum.agl import kleene
from curriculum.render import dialogue_context
from ledger.errors import LunaError
from ledger.roles import Role

_DATA = Path(__file__).parent.parent / "data" / "recipes"
_SLOT = re.compile(r"\{(\w+)")
# The first letter of a sentence, also behind a certainty glyph; not a lone variable (x, t₀) and not after
# "... ".
_SENTENCE_START = re.compile(r"(^|\n|(?<!\.)[.!?] )([●◕◑◔○◐⊥] )?([a-z])(?=[a-z]|(?<=a) )")

SlotValue = str | Mapping[str, str]

VALUE_SLOT: tuple[Mapping[str, str], ...] = tuple(
    {
        "glyph": kleene.GLYPHS[value],
        "negated": kleene.GLYPHS[kleene.negation(value)],
        "word": word,
        "not_word": not_word,
    }
    for value, word, not_word in (
        (kleene.TRUE, "surely", "surely not"),
        (kleene.UNDETERMINED, "perhaps", "perhaps not"),
        (kleene.FALSE, "not at all", "surely"),
    )
)
"""A truth value, its negation (from the Kleene table) and how one says both."""


@dataclass(frozen=True, slots=True)
class Template:
    id: str
    category: str
    input: str
    outputs: tuple[str, ...]
    thesis: str
    antithesis: str
    slots: tuple[str, ...]
    """Names of the slots in all of its texts, in order of appearance."""


@dataclass(frozen=True, slots=True)
class Filled:
    template_id: str
    input: str
    output: str
    context: str


@functools.cache
def load_templates(
    role: Role,
) -> tuple[Mapping[str, tuple[Template, ...]], Mapping[str, Sequence[SlotValue]]]:
    """(templates by category, slot values by name) of a role."""
    shared = tomllib.loads((_DATA / "slots.toml").read_text(encoding="utf-8"))
    table = tomllib.loads((_DATA / f"{role}.toml").read_text(encoding="utf-8"))
    slots = {**shared, "value": VALUE_SLOT, **table.pop("slots", {})}
    return {category: tuple(_template(category, row) for row in rows) for category, rows in table.items()}, slots


def fill_category(role: Role, category: str, n: int, rng: Random) -> list[Filled]:
    """`n` texts of a category with different inputs, each template used equally often (to within one, while
    it lasts).

    Raises `LunaError` when the templates hold fewer different inputs than that.
    """
    by_category, slots = load_templates(role)
    active = list(by_category[category])
    rng.shuffle(active)
    seen: set[str] = set()
    filled: list[Filled] = []
    turn = 0
    while len(filled) < n:
        if not active:
            raise LunaError(
                f"asked for {n} different {role} examples of {category!r}; the templates gave {len(filled)}. "
                "Ask for a smaller total or add templates and slot values under curriculum/data/recipes."
            )
        template = active[turn % len(active)]
        text = _fresh(template, slots, seen, rng)
        if text is None:
            active.remove(template)
        else:
            seen.add(text.input)
            filled.append(text)
            turn += 1
    return filled


def _fresh(template: Template, slots: Mapping[str, Sequence[SlotValue]], seen: set[str], rng: Random) -> Filled | None:
    """A filling whose input is new, or None after 200 tries: then the template counts as used up."""
    for _ in range(200):
        values = {name: slots[name][int(rng.random() * len(slots[name]))] for name in template.slots}
        text = _sentence_case(template.input.format_map(values))
        if text not in seen:
            output = template.outputs[int(rng.random() * len(template.outputs))]
            context = ""
            if template.thesis:
                thesis = _sentence_case(template.thesis.format_map(values))
                context = dialogue_context(thesis, _sentence_case(template.antithesis.format_map(values)))
            return Filled(template.id, text, _sentence_case(output.format_map(values)), context)
    return None


def _template(category: str, row: Mapping[str, object]) -> Template:
    output = row["output"]
    outputs = (output,) if isinstance(output, str) else tuple(str(text) for text in output)  # type: ignore[attr-defined]
    text, thesis, antithesis = str(row["input"]), str(row.get("thesis", "")), str(row.get("antithesis", ""))
    names = _SLOT.findall(" ".join((text, thesis, antithesis, *outputs)))
    return Template(str(row["id"]), category, text, outputs, thesis, antithesis, tuple(dict.fromkeys(names)))


def _sentence_case(text: str) -> str:
    return _SENTENCE_START.sub(lambda match: match[1] + (match[2] or "") + match[3].upper(), text)
