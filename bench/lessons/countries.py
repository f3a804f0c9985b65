"""Facts of countries, read from the data of the package countryinfo (MIT): each told in four ways, asked in a fifth."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.lessons.lesson import Asking, Lesson, Material, Size, example_of, generator_of
from ledger.errors import LunaError
from ledger.roles import ROLES

WAYS: dict[str, tuple[str, ...]] = {
    "capital": (
        "Which city is the capital of {}?",
        "What is the capital of {}?",
        "{}: which city is its capital?",
        "The government of {} sits in which city?",
        "Name the capital city of {}.",
    ),
    "demonym": (
        "What do you call someone from {}?",
        "A person from {} is called what?",
        "{}: what are its people called?",
        "Which word names the people of {}?",
        "If I was born in {}, what am I?",
    ),
    "subregion": (
        "In which part of the world is {}?",
        "Where on the map is {}?",
        "{}: which region is it in?",
        "Which region does {} belong to?",
        "I travel to {}; what region is that?",
    ),
    "tld": (
        "Which internet ending does {} have?",
        "Web addresses from {} end in what?",
        "{}: what do its web addresses end in?",
        "What is the top-level domain of {}?",
        "A site in {} ends in which letters?",
    ),
}
"""Ways to ask for a fact; the first is kept for the probes."""


def countries_lesson() -> Lesson:
    """The facts as a memory lesson."""
    return Lesson("countries", "memory", _material)


def _material(size: Size, seed: int) -> Material:
    """Each role learns facts of its own and is asked for these, in words that it was not taught."""
    facts = list(_facts())
    generator_of("countries", seed).shuffle(facts)
    told = len(next(iter(WAYS.values()))) - 1
    needed = max(-(-size.rows // told) * len(ROLES), size.probes)
    if len(facts) < needed:
        raise LunaError(f"countryinfo has {len(facts)} facts and {needed} are asked for; ask for fewer rows or probes.")
    rows, probes = [], []
    for number, (country, attribute, value) in enumerate(facts[:needed]):
        role, ways = ROLES[number % len(ROLES)], WAYS[attribute]
        category = f"country/{attribute}"
        rows += [example_of(Asking(way.format(country), value, category), role) for way in ways[1:]]
        probes.append(example_of(Asking(ways[0].format(country), value, category), role))
    return Material(rows, probes[: size.probes])


def _facts() -> Iterator[tuple[str, str, str]]:
    """(country, attribute, value), in the order of the files' names."""
    spec = importlib.util.find_spec("countryinfo")
    roots = list(spec.submodule_search_locations or ()) if spec else []
    if not roots:
        raise LunaError("this bench needs packages of its own (countryinfo); `make bench-setup` installs them.")
    for path in sorted((Path(roots[0]) / "data").glob("*.json")):
        country: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for attribute in WAYS:
            value = country.get(attribute)
            value = value[0] if isinstance(value, list) and value else value
            if isinstance(value, str) and value.strip() and country.get("name"):
                yield country["name"], attribute, value.strip()
