"""`luna curriculum import`, as a user calls it."""

import json

import pytest
from typer.testing import CliRunner

from curriculum.parquet import read_examples
from jobs.cli import app
from jobs.generation.preferences import gather
from ledger.home import Home


def luna(*arguments, **options):
    return CliRunner().invoke(app, [*map(str, arguments)], **options)


@pytest.fixture
def home(tmp_path):
    place = Home(tmp_path / "home").create()
    place.settings_file.write_text('profile = "tiny"\n')
    return place


@pytest.fixture
def export(tmp_path):
    """A ChatGPT export of one talk of two exchanges, with an address in it."""
    said = ["What is tea?", "A drink.", "Whom do I ask?", "Write to anna@example.com."]
    mapping = {"root": {"id": "root", "message": None, "parent": None, "children": ["m0"]}}
    for number, text in enumerate(said):
        mapping[f"m{number}"] = {
            "id": f"m{number}",
            "parent": f"m{number - 1}" if number else "root",
            "children": [f"m{number + 1}"] if number + 1 < len(said) else [],
            "message": {
                "id": f"m{number}",
                "author": {"role": "assistant" if number % 2 else "user", "metadata": {}},
                "content": {"content_type": "text", "parts": [text]},
                "recipient": "all",
                "weight": 1.0,
            },
        }
    talk = {"title": "Tea", "create_time": 1767225600.5, "id": "talk-1", "current_node": "m3", "mapping": mapping}
    file = tmp_path / "conversations.json"
    file.write_text(json.dumps([talk]))
    return file


def test_a_chatgpt_export_reaches_the_inbox_for_all_roles(home, export):
    done = luna("curriculum", "import", export, "--home", home.root)
    assert done.exit_code == 0, done.output
    [file] = home.inbox_dir.glob("*.parquet")
    assert done.stdout.strip() == file.stem
    examples = read_examples(file)
    assert len(examples) == 6
    assert {(e.input, e.output, e.context) for e in examples} == {
        ("What is tea?", "A drink.", ""),
        ("Whom do I ask?", "Write to [e-mail].", "User: What is tea?\nLuna: A drink."),
    }
    assert {e.group for e in examples} == {"conversation/talk-1"}
    assert "1 ChatGPT export" in done.stderr
    assert "2 prompts with answers, 6 examples" in done.stderr
    assert "masked: 1 e-mail" in done.stderr
    assert "filled from recipes" in done.stderr
    shown = luna("curriculum", "inspect", file.stem, "--home", home.root)
    assert "6 examples" in shown.stdout
    assert "conversations and documents: 1" in shown.stdout


def test_a_dry_run_shows_samples_and_imports_nothing(home, export):
    done = luna("curriculum", "import", export, "--dry-run", "--home", home.root)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("sample, ") == 3
    assert "1 ChatGPT export" in done.stdout
    assert list(home.inbox_dir.glob("*.parquet")) == []


def test_personal_data_is_kept_if_asked_for(home, export):
    done = luna("curriculum", "import", export, "--keep-personal-data", "--home", home.root)
    [file] = home.inbox_dir.glob("*.parquet")
    assert "masked" not in done.stderr
    assert any("anna@example.com" in example.output for example in read_examples(file))


def test_an_import_without_anything_usable_is_an_error_and_says_why(home, tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"title": "x"}\n{"title": "y"}\n')
    done = luna("curriculum", "import", file, "--home", home.root)
    assert done.exit_code == 1
    assert f"skipped: 2 lines ({file}:1, {file}:2): found the keys title" in done.stderr
    assert "nothing was imported" in done.stderr


def test_a_corrected_weight_is_not_ignored_in_silence(home, tmp_path):
    file = tmp_path / "x.jsonl"
    for weight in (1.0, 0.25):
        file.write_text(json.dumps({"input": "a", "output": "b", "weight": weight}))
        done = luna("curriculum", "import", file, "--home", home.root)
    assert "3 examples are in the inbox already with another weight" in done.stderr


def test_imported_pairs_are_found_by_a_generation(home, tmp_path):
    from cluster.settings import Settings

    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "Tea?", "chosen": "Yes, please.", "rejected": "No."}))
    done = luna("curriculum", "import", file, "--home", home.root)
    assert done.exit_code == 0, done.output
    assert "--channels dual" in done.stderr
    pairs = gather(home, Settings.model_validate({"channels": {"mode": "dual"}}), [])
    assert sorted(pair.role for pair in pairs) == ["creative", "dialectical", "logical"]
    assert {pair.origin for pair in pairs} == {"imported"}


def test_control_characters_of_a_file_never_reach_the_terminal(home, tmp_path):
    file = tmp_path / "x.jsonl"
    records = [{"input": "a\x1b[2J", "output": "b\x00"}, {"\x1b[2Jkey": 1}, {"input": "x", "output": "y", "\x1b[2J": 1}]
    file.write_text("\n".join(map(json.dumps, records)))
    for more in ((), ("--dry-run",)):
        done = luna("curriculum", "import", file, *more, "--home", home.root)
        assert done.exit_code == 0, done.output
        assert "\x1b" not in done.output


def test_standard_input_is_read(home):
    done = luna("curriculum", "import", "-", "--home", home.root, input='{"input": "a", "output": "b"}\n')
    assert done.exit_code == 0, done.output
    assert "3 examples in the inbox" in done.stderr


def test_what_was_learned_already_is_said_and_settings_decide_about_filling(home, tmp_path):
    from curriculum.importing import import_file
    from ledger.taken import Taken
    from tests.ledger.builders import add_generation, make_ledger

    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps({"input": "a", "output": "b"}))
    [example] = import_file(file, "logical").examples
    with make_ledger(home.root) as ledger:
        add_generation(ledger, 0, None)
        ledger.note_taken(0, [Taken(example.id, "train", (1,))])
    home.settings_file.write_text('profile = "tiny"\n[data]\nfill = false\n')
    done = luna("curriculum", "import", file, "--home", home.root)
    assert done.exit_code == 0, done.output
    assert "1 examples have been learned already" in done.stderr
    assert "fill = false" in done.stderr
