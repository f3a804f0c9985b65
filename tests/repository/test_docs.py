"""The documentation: generated pages are current, quoted commands exist, links lead somewhere, it stays short."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from tests.repository import ROOT

MOST_WORDS = 14_400
"""In README and docs together, without what is generated and without the log."""

GENERATED = (
    "deploy/grafana/luna.json", "docs/reference/settings.md", "docs/reference/cli.md", "docs/measurements.md"
)  # fmt: skip
LOG = ROOT / "docs" / "dev"
WRITTEN = [
    path
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if str(path.relative_to(ROOT)) not in GENERATED and LOG not in path.parents
]

PACKAGES = ("cluster", "curriculum", "jobs", "ledger", "serving", "trainers")


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module("scripts.reference")
    finally:
        sys.path.remove(str(ROOT))


@pytest.mark.parametrize("path", GENERATED)
def test_a_generated_page_is_what_its_generator_gives(reference: ModuleType, path: str) -> None:
    assert set(reference.PAGES) == set(GENERATED)
    assert (ROOT / path).read_text(encoding="utf-8") == reference.PAGES[path](), "run `make docs`"


def words(text: str) -> int:
    """Words of a text, as `wc -w` counts them."""
    return len(text.split())


def test_the_docs_are_short() -> None:
    counted = {str(path.relative_to(ROOT)): words(path.read_text(encoding="utf-8")) for path in WRITTEN}
    assert sum(counted.values()) <= MOST_WORDS, counted


def quoted_commands(text: str) -> Iterator[str]:
    """`luna ...` in code spans and at the beginning of lines of code blocks."""
    blocks = re.findall(r"^ *```[^\n]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    for block in blocks:
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if found := re.match(r"\s*(?:\$ )?(luna .*)", line):
                yield found[1].partition(" #")[0]
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`]+)`", prose):
        if span.split()[:1] == ["luna"]:
            yield " ".join(span.split())


COMMANDS = sorted({command for path in WRITTEN for command in quoted_commands(path.read_text(encoding="utf-8"))})


def test_the_docs_quote_commands() -> None:
    assert len(COMMANDS) > 20


@cache
def options_of(*names: str) -> frozenset[str]:
    """The options that the help of a command shows."""
    from jobs.cli import app

    done = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 0, done.output
    return frozenset(re.findall(r"(?<![\w-])--?[a-z][\w-]*", done.output))


@pytest.mark.parametrize("quoted", COMMANDS)
def test_a_quoted_command_exists_with_its_options(quoted: str) -> None:
    """Asks for the help of the command and looks for every quoted option in it."""
    import typer

    from jobs.cli import app

    own, _, of_the_job = quoted.partition(" -- ")
    given = shlex.split(own)[1:]
    command, names = typer.main.get_command(app), list[str]()
    for word in given:
        if word.startswith("-"):
            continue
        inner = getattr(command, "commands", {})
        if not inner:
            break
        assert word in inner or names_an_option_value(given, word), f"`luna {' '.join([*names, word])}` does not exist"
        if word in inner:
            command = inner[word]
            names.append(word)
    known = options_of(*names)
    if names and given[0] != names[0]:  # options before the command
        known |= options_of()
    options = {word.partition("=")[0] for word in given if re.match(r"--?[a-z]", word)}
    assert options <= known, f"`luna {' '.join(names)}` has no {', '.join(sorted(options - known))}"
    assert not of_the_job or names == ["submit"]


def names_an_option_value(given: list[str], word: str) -> bool:
    """Whether a word follows an option, as in `luna --home FOLDER status`."""
    place = given.index(word)
    return place > 0 and given[place - 1].startswith("-")


def toml_blocks() -> list[tuple[str, str]]:
    return [
        (str(path.relative_to(ROOT)), block)
        for path in WRITTEN
        for block in re.findall(r"```toml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    ]


@pytest.mark.parametrize(("path", "block"), toml_blocks(), ids=lambda value: value if value.endswith(".md") else "")
def test_settings_in_the_docs_are_valid(path: str, block: str, tmp_path: Path) -> None:
    from cluster.settings import load_settings

    file = tmp_path / "luna.toml"
    file.write_text(re.sub(r"^ {3}", "", block, flags=re.MULTILINE), encoding="utf-8")
    load_settings(file)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        assert place.exists(), f"{path.name}: {target}"
        assert LOG not in place.parents, f"{path.name}: the log is not for users"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings], target


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_the_docs_name_exist(path: Path) -> None:
    folders = "|".join((*PACKAGES, "configs", "scripts", "bench"))
    named = re.findall(rf"`((?:{folders})/[\w./-]+)`", path.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_pages_that_the_code_names_exist() -> None:
    sources = [path for root in (*PACKAGES, "bench", "scripts", "configs") for path in (ROOT / root).rglob("*.*")]
    sources += [ROOT / "pyproject.toml", ROOT / "ray_cluster.yaml", ROOT / "Makefile"]
    named = {
        (str(path.relative_to(ROOT)), page)
        for path in sources
        if path.suffix in (".py", ".toml", ".yaml", ".js", ".html", "")
        for page in re.findall(r"docs/[\w/-]+\.md", path.read_text(encoding="utf-8"))
    }
    assert sorted(one for one in named if not (ROOT / one[1]).exists()) == []
