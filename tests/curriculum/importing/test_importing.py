"""Bringing one's own data, good and bad."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum.importing import import_file
from curriculum.importing.manuals import MAX_PASSAGE_WORDS, split_manual
from curriculum.parquet import write_examples
from curriculum.recipes import build_recipe
from ledger.errors import LunaError

GOOD = '{"input": "hi", "output": "hello"}'


def write_lines(path, *lines):
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines) + b"\n")
    return path


def test_our_own_records_keep_their_fields_and_get_defaults(tmp_path):
    full = {"role": "creative", "stage": "logs_specs", "category": "log", "kind": "pure", "input": "a", "output": "b",
            "context": "c", "group": "book/d", "weight": 0.5, "created_at": "2026-03-01T14:00:00+02:00"}  # fmt: skip
    report = import_file(write_lines(tmp_path / "x.jsonl", GOOD, "", json.dumps(full)), "dialectical")
    plain, rich = report.examples
    assert (plain.role, plain.stage, plain.category, plain.source) == (
        "dialectical",
        "conversations",
        "imported",
        "file/x.jsonl:1",
    )
    assert (rich.role, rich.stage, rich.category, rich.context, rich.weight) == (
        "creative",
        "logs_specs",
        "log",
        "c",
        0.5,
    )
    assert rich.created_at == "2026-03-01T12:00:00Z"
    assert rich.source == "file/x.jsonl:3"
    assert (plain.group, rich.group) == ("", "book/d")
    assert report.problems == []


def test_openai_messages_become_one_example_an_answer_with_all_that_was_said_before_as_context(tmp_path):
    messages = [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": [{"type": "text", "text": "two?"}]},
        {"role": "assistant", "content": "2"},
    ]
    first, second = import_file(
        write_lines(tmp_path / "x.jsonl", json.dumps({"messages": messages})), "logical"
    ).examples
    assert (first.input, first.output, first.context) == ("one?", "1", "You are terse.")
    assert (second.input, second.output, second.context) == ("two?", "2", "You are terse.\nUser: one?\nLuna: 1")


def test_an_answer_of_weight_zero_is_only_context(tmp_path):
    messages = [
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": "bad", "weight": 0},
        {"role": "user", "content": "again?"},
        {"role": "assistant", "content": "good"},
    ]
    report = import_file(write_lines(tmp_path / "x.jsonl", json.dumps({"messages": messages})), "logical")
    assert [(e.input, e.output) for e in report.examples] == [("again?", "good")]


def test_both_forms_may_stand_in_one_file_and_repeats_are_counted(tmp_path):
    chat = json.dumps({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]})
    report = import_file(write_lines(tmp_path / "x.jsonl", GOOD, chat), "logical")
    assert len(report.examples) == 1
    assert report.duplicates == 1


BAD_LINES = {
    "not json": ("{oops", "not JSON"),
    "a list": ("[1, 2]", "expected a JSON object, found a list"),
    "a number": ("7", "expected a JSON object"),
    "neither form": ('{"prompt": "x"}', "prompt"),
    "an empty object": ("{}", "none"),
    "no output": ('{"input": "x"}', "'output' is missing"),
    "empty output": ('{"input": "x", "output": " "}', "output is empty"),
    "output of a wrong type": ('{"input": "x", "output": 5}', "'output' must be a string, found a int"),
    "null input": ('{"input": null, "output": "x"}', "found null"),
    "unknown key": ('{"input": "x", "output": "y", "answer": "z"}', "unknown key 'answer'"),
    "unknown role": ('{"input": "x", "output": "y", "role": "poet"}', "'poet'"),
    "unknown stage": ('{"input": "x", "output": "y", "stage": "late"}', "'late'"),
    "unknown kind": ('{"input": "x", "output": "y", "kind": "odd"}', "'odd'"),
    "negative weight": ('{"input": "x", "output": "y", "weight": -2}', "-2"),
    "weight of a wrong type": ('{"input": "x", "output": "y", "weight": "big"}', "'weight' must be a number"),
    "NaN weight": ('{"input": "x", "output": "y", "weight": NaN}', "nan"),
    "id of other content": (
        json.dumps({"role": "logical", "input": "x", "output": "y", "id": "0" * 64}),
        "'id' is 0000",
    ),
    "time without zone": ('{"input": "x", "output": "y", "created_at": "2026-01-01"}', "without a time zone"),
    "no time": ('{"input": "x", "output": "y", "created_at": "soon"}', "'soon'"),
    "messages not a list": ('{"messages": "hi"}', "'messages' must be a list"),
    "message not an object": ('{"messages": ["hi"]}', "message 1 must be an object"),
    "message role": ('{"messages": [{"role": "poet", "content": "x"}]}', "message 1: the role 'poet' is unknown"),
    "message without text": ('{"messages": [{"role": "user", "content": null}]}', "no assistant answer"),
    "message with an image": (
        '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}',
        "no assistant answer",
    ),
    "content of a wrong type": ('{"messages": [{"role": "user", "content": 7}]}', "message 1: a message's content"),
    "answer before question": ('{"messages": [{"role": "assistant", "content": "x"}]}', "no assistant answer"),
    "a weight of 401 digits": ('{"input": "x", "output": "y", "weight": 1' + "0" * 400 + "}", "'weight' is inf"),
    "a weight of 5,000 digits": ('{"input": "x", "output": "y", "weight": ' + "9" * 5000 + "}", "'weight' is inf"),
    "a weight beyond floats": ('{"input": "x", "output": "y", "weight": 1e400}', "'weight' is inf"),
    "a message's weight as text": (
        '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "weight": "0"}]}',
        "message 2: its weight is '0'",
    ),
    "half a message's weight": (
        '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "weight": 0.5}]}',
        "message 2: its weight is 0.5",
    ),
    "the first moment of the calendar": (
        '{"input": "x", "output": "y", "created_at": "0001-01-01T00:00:00+01:00"}',
        "'0001-01-01",
    ),
    "the last moment of the calendar": (
        '{"input": "x", "output": "y", "created_at": "9999-12-31T23:59:59-05:00"}',
        "'9999-12-31",
    ),
    "a year without its zeros": ('{"input": "x", "output": "y", "created_at": "0001-01-01T00:00:00Z"}', "no data is"),
    "a time that is a number": ('{"input": "x", "output": "y", "created_at": 1700000000}', "1700000000"),
    "an answer nobody sees": ('{"input": "x", "output": "\\u200b"}', "output is empty"),
    "an answer of control characters": ('{"input": "x", "output": "\\u0000\\u001b[2J"}', "output is empty"),
    "very deep": ("[" * 100_000, "nested too deeply"),
    "no answer": ('{"messages": [{"role": "user", "content": "x"}]}', "no assistant answer"),
    "not utf-8": (b'{"input": "\xff", "output": "x"}', "not UTF-8"),
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_named_and_the_import_goes_on(tmp_path, line, reason):
    path = write_lines(tmp_path / "x.jsonl", GOOD, line, '{"input": "bye", "output": "see you"}')
    report = import_file(path, "logical")
    assert [example.output for example in report.examples] == ["hello", "see you"]
    [problem] = report.problems
    assert problem.line == 2
    assert str(problem).startswith(f"{path}:2: ")
    assert reason in problem.reason


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_stops_the_import_if_asked(tmp_path, line, reason):
    path = write_lines(tmp_path / "x.jsonl", GOOD, line)
    with pytest.raises(LunaError) as error:
        import_file(path, "logical", on_error="stop")
    assert f"{path}:2: " in str(error.value)
    assert reason in str(error.value)


def test_windows_line_ends_and_a_byte_order_mark_are_fine(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n" + GOOD.replace("hi", "hey").encode())
    report = import_file(tmp_path / "x.jsonl", "logical")
    assert [example.input for example in report.examples] == ["hi", "hey"]
    assert report.problems == []


def test_a_frozen_set_can_be_imported_again(tmp_path):
    examples = build_recipe("logical", 60, seed=1)
    write_examples(tmp_path / "x.parquet", examples)
    assert import_file(tmp_path / "x.parquet", "creative").examples == examples


def test_parquet_needs_only_input_and_output_and_names_bad_rows(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"input": "a", "output": "b", "weight": None}, {"input": "a", "output": None, "weight": 1.0}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    report = import_file(tmp_path / "x.parquet", "logical")
    assert [example.output for example in report.examples] == ["b"]
    assert [(problem.line, problem.reason) for problem in report.problems] == [(2, "the key 'output' is missing")]


def test_an_unknown_parquet_column_is_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"inputs": ["a"], "output": ["b"]}), tmp_path / "x.parquet")
    [problem] = import_file(tmp_path / "x.parquet", "logical").problems
    assert "unknown key 'inputs'" in problem.reason


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.docx", b"x", r"\.docx is unknown"),
        ("x", b"x", r"\(none\) is unknown"),
        ("x.jsonl", b"", "holds nothing"),
        ("x.csv", b"", "holds nothing"),
        ("x.zip", b"PK", "no readable zip"),
        ("x.md", b"# Only a heading\n", "holds nothing"),
        ("x.parquet", b"PAR1", "not a readable Parquet"),
    ],
)
def test_a_file_that_holds_nothing_readable_is_refused(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LunaError, match=reason):
        import_file(tmp_path / name, "logical")


def test_missing_files_folders_and_wrong_arguments_are_named(tmp_path):
    with pytest.raises(LunaError, match=r"gone\.jsonl"):
        import_file(tmp_path / "gone.jsonl", "logical")
    with pytest.raises(LunaError, match="holds no file"):
        import_file(tmp_path, "logical")
    path = write_lines(tmp_path / "x.jsonl", GOOD)
    with pytest.raises(LunaError, match="'poet'"):
        import_file(path, "poet")
    with pytest.raises(LunaError, match="'ignore'"):
        import_file(path, "logical", on_error="ignore")


MANUAL = """Welcome to the kettle.

# Kettle

Fill it with water.
Never more than a litre.

## Safety
Keep it away from children.

```
# not a heading
boil --now
```

Cleaning
--------
Use vinegar.
"""


def test_a_markdown_manual_is_cut_along_its_headings():
    passages = split_manual(MANUAL, markdown=True)
    assert [(passage.section, passage.text, passage.line) for passage in passages] == [
        ("", "Welcome to the kettle.", 1),
        ("Kettle", "Fill it with water. Never more than a litre.", 5),
        ("Kettle > Safety", "Keep it away from children.", 9),
        ("Kettle > Cleaning", "Use vinegar.", 18),
    ]


def test_a_text_manual_has_capital_and_numbered_headings():
    text = "SAFETY NOTES\n\nKeep dry.\n\n1 Start\n\nPress it.\n\n1.1 First time\n\nHold it.\n\n2. End\n\nLet go.\n"
    assert [(passage.section, passage.text) for passage in split_manual(text, markdown=False)] == [
        ("SAFETY NOTES", "Keep dry."),
        ("1 Start", "Press it."),
        ("1 Start > 1.1 First time", "Hold it."),
        ("2. End", "Let go."),
    ]


def test_manual_passages_ask_about_their_section_and_know_their_line(tmp_path):
    (tmp_path / "kettle.md").write_text(MANUAL)
    report = import_file(tmp_path / "kettle.md", "dialectical")
    example = report.examples[2]
    assert example.input == 'What does "Kettle > Safety" in kettle.md say?'
    assert example.group.startswith("document/")
    assert {other.group for other in report.examples} == {example.group}
    assert report.left_out == {"blocks of code in manuals": 1}
    assert (example.output, example.stage, example.source) == (
        "Keep it away from children.",
        "manual",
        "file/kettle.md:9",
    )


def test_a_line_that_is_not_utf8_is_named_and_the_rest_of_a_manual_is_read(tmp_path):
    path = write_lines(tmp_path / "x.txt", "First part.", "", b"bad \xff line", "", "Last part.")
    report = import_file(path, "logical")
    assert [str(problem) for problem in report.problems] == [f"{path}:3: not UTF-8 text; save the file as UTF-8"]
    assert "Last part." in report.examples[-1].output
    with pytest.raises(LunaError, match=":3: not UTF-8"):
        import_file(path, "logical", on_error="stop")


@given(st.lists(st.lists(st.sampled_from(["one", "two.", "three", "four!"]), min_size=1, max_size=200), max_size=8))
def test_no_word_is_lost_and_no_passage_is_too_long(paragraphs):
    text = "\n\n".join(" ".join(words) for words in paragraphs)
    passages = split_manual(text, markdown=True)
    assert " ".join(passage.text for passage in passages).split() == text.split()
    assert all(len(passage.text.split()) <= MAX_PASSAGE_WORDS for passage in passages)
