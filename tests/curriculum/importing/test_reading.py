"""Files as they come: arrays, tables, archives, folders, encodings, and what is broken."""

import io
import json
import sys
import zipfile
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.importing import ImportOptions, import_file, import_paths
from curriculum.importing.json_values import json_values
from curriculum.importing.sources import MOST_UNPACKED
from ledger.errors import LunaError
from tests.curriculum.importing.readers import READERS

LINES = [{"input": f"question {n}", "output": f"answer {n}"} for n in range(4)]
INPUTS = [line["input"] for line in LINES]


def inputs(path, role="logical"):
    return [example.input for example in import_file(path, role).examples]


SPELLINGS = {
    "an array": json.dumps(LINES),
    "an array over lines": json.dumps(LINES, indent=2),
    "an object a line of an array": "[\n" + ",\n".join(map(json.dumps, LINES)) + "\n]\n",
    "objects over several lines": "\n".join(json.dumps(line, indent=2) for line in LINES),
    "lines": "\n".join(map(json.dumps, LINES)),
}


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_json_is_read_however_it_is_laid_out(tmp_path, text, ending):
    path = tmp_path / f"x.{ending}"
    path.write_text(text)
    assert inputs(path) == INPUTS


@settings(max_examples=50)
@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.floats(allow_nan=False)))))
def test_values_of_an_array_are_those_of_the_json_module(values):
    for indent in (None, 1):
        read = [value for _, value in json_values(io.StringIO(json.dumps(values, indent=indent)))]
        assert read == values


def test_an_array_longer_than_the_window_is_read_whole(tmp_path):
    lines = [{"input": f"question {n}", "output": "x" * 100_000} for n in range(30)]
    (tmp_path / "x.json").write_text(json.dumps([*lines, {"input": "last", "output": "y" * 5_000_000}]))
    assert inputs(tmp_path / "x.json") == [*(line["input"] for line in lines), "last"]


def test_a_broken_object_of_an_array_is_named_and_the_next_line_read(tmp_path):
    (tmp_path / "x.json").write_text('[\n{"input": "a", "output": "b"},\n{oops},\n{"input": "c", "output": "d"}\n]')
    report = import_file(tmp_path / "x.json", "logical")
    assert [example.input for example in report.examples] == ["a", "c"]
    assert [problem.line for problem in report.problems] == [3]


def test_an_array_that_breaks_off_keeps_what_came_before(tmp_path):
    (tmp_path / "x.json").write_text('[{"input": "a", "output": "b"}, {"input": "c", "outp')
    report = import_file(tmp_path / "x.json", "logical")
    assert [example.input for example in report.examples] == ["a"]
    assert report.problems


TABLES = {
    "x.csv": "input,output\nhi,hello\n",
    "semicolons.csv": "\ufeffinput;output;weight\r\nhi;hello;0,5\r\n",
    "x.tsv": "input\toutput\nhi\thello\n",
    "alpaca.csv": "instruction,input,output\nhi,,hello\n",
    "prompts.csv": 'prompt,completion\n"hi","hello"\n',
    "messages.csv": 'messages\n"[{""role"": ""user"", ""content"": ""hi""}, {""role"": ""assistant"", ""content"": '
    '""hello""}]"\n',
}


@pytest.mark.parametrize(("name", "text"), TABLES.items())
def test_tables_hold_the_forms_as_columns(tmp_path, name, text):
    (tmp_path / name).write_text(text, newline="")
    [example] = import_file(tmp_path / name, "logical").examples
    assert (example.input, example.output) == ("hi", "hello")


def test_a_quote_that_is_never_closed_takes_its_row_alone(tmp_path):
    (tmp_path / "x.csv").write_text('input,output\na,b\nc,"d\ne,f\ng,h\n')
    report = import_file(tmp_path / "x.csv", "logical")
    assert [example.input for example in report.examples] == ["a", "e", "g"]
    assert [(problem.line, problem.reason) for problem in report.problems] == [
        (3, "a quote that begins in this row is never closed")
    ]


def test_cells_may_hold_lines_and_rows_keep_their_line_numbers(tmp_path):
    (tmp_path / "x.csv").write_text('input,output\na,"two\nlines"\nb,\n')
    report = import_file(tmp_path / "x.csv", "logical")
    assert [example.output for example in report.examples] == ["two\nlines"]
    assert [problem.line for problem in report.problems] == [4]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-32"])
@pytest.mark.parametrize(
    ("name", "text"), [("x.jsonl", SPELLINGS["lines"]), ("x.csv", "input,output\nquestion 0,tea\n"),
                       ("x.md", "# Tea\n\nPour it slowly, and wait.\n")]
)  # fmt: skip
def test_other_encodings_of_unicode_are_read(tmp_path, encoding, name, text):
    (tmp_path / name).write_bytes(text.encode(encoding))
    report = import_file(tmp_path / name, "logical")
    assert report.problems == []
    assert not any("\0" in example.input + example.output for example in report.examples)


def test_a_file_in_a_windows_encoding_is_named_in_one_sentence(tmp_path):
    lines = [json.dumps({"input": "Grüße?", "output": f"Schön {n}"}, ensure_ascii=False) for n in range(50)]
    (tmp_path / "x.jsonl").write_bytes("\n".join(lines).encode("cp1252"))
    report = import_file(tmp_path / "x.jsonl", "logical")
    [reason] = report.reasons.values()
    assert (reason.text, reason.count) == ("not UTF-8 text; save the file as UTF-8", 50)


def archive(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_folders_and_archives_are_read_and_other_files_passed_over(tmp_path):
    folder = tmp_path / "export"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.json").write_text(json.dumps(LINES[:1]))
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / ".hidden.json").write_text(json.dumps(LINES[1:2]))
    archive(folder / "b.zip", {"conversations.json": json.dumps(LINES[2:3]), "../chat.html": "<html>"})
    report = import_file(folder, "logical")
    assert {example.input for example in report.examples} == {"question 0", "question 2"}
    assert report.left_out == {
        "files of other kinds (.png)": 1,
        "files of other kinds (.html)": 1,
        "hidden files": 1,
    }


def test_hidden_folders_and_links_that_are_not_followed_are_told(tmp_path):
    folder = tmp_path / "export"
    (folder / ".git").mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps(LINES[:1]))
    (tmp_path / "elsewhere").mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "gone.json").symlink_to(tmp_path / "gone.json")
    report = import_file(folder, "logical")
    assert report.lessons == 1
    assert report.left_out == {
        "hidden folders": 1,
        "links to folders": 1,
        "broken links and other entries that are no files": 1,
    }


def test_a_damaged_archive_among_others_is_a_problem_and_alone_an_error(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(LINES))
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 cut off")
    both = [str(tmp_path / "x.json"), str(tmp_path / "bad.zip")]
    report = import_paths(both, ImportOptions(("logical",)))
    assert (report.lessons, [problem.file for problem in report.problems]) == (4, both[1:])
    assert import_paths([str(tmp_path)], ImportOptions(("logical",))).problems == report.problems
    for paths, on_error in ((both[1:], "continue"), (both, "stop"), ([str(tmp_path)], "stop")):
        with pytest.raises(LunaError, match="no readable zip archive"):
            import_paths(paths, ImportOptions(on_error=on_error))


def test_an_archive_comes_through_standard_input_too(tmp_path, monkeypatch):
    packed = archive(tmp_path / "x.zip", {"a.json": json.dumps(LINES)}).read_bytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(packed)))
    assert len(import_paths(["-"], ImportOptions(("logical",))).examples) == 4


def test_a_name_that_points_out_of_an_archive_writes_nothing(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    path = archive(inner / "x.zip", {"../../evil.jsonl": json.dumps(LINES[0])})
    assert inputs(path) == ["question 0"]
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["inner", "x.zip"]


def test_a_bomb_is_refused_with_the_limit(tmp_path):
    path = archive(tmp_path / "x.zip", {"x.jsonl": b"0" * (100 << 20)})
    with pytest.raises(LunaError, match="the limit is 500"):
        import_file(path, "logical")


def test_an_archive_that_unpacks_to_too_much_is_refused_with_the_limit(tmp_path, monkeypatch):
    path = archive(tmp_path / "x.zip", {"x.jsonl": json.dumps(LINES[0])})
    monkeypatch.setattr("curriculum.importing.sources.MOST_UNPACKED", 10)
    with pytest.raises(LunaError, match="limit"):
        import_file(path, "logical")
    assert MOST_UNPACKED > 1 << 30


def test_a_damaged_archive_is_named(tmp_path):
    path = archive(tmp_path / "x.zip", {"x.jsonl": "\n".join(json.dumps(line) for line in LINES * 100)})
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(30)
    path.write_bytes(data)
    problems = import_file(path, "logical").problems
    assert problems[-1].file == f"{path}/x.jsonl"
    assert "could not be unpacked" in problems[-1].reason


def test_a_missing_file_among_others_is_an_error(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(LINES))
    with pytest.raises(LunaError, match=r"gone\.json"):
        import_paths([str(tmp_path / "x.json"), str(tmp_path / "gone.json")], ImportOptions())


COLUMN = 'messages\n"[{""role"": ""user"", ""content"": ""a""}, {""role"": ""assistant"", ""content"": ""b""}]"\n'


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (SPELLINGS["lines"], 4),
        (SPELLINGS["an array"], 4),
        ("input,output\na,b\n", 1),
        ("# Tea\n\nPour it.\n", 1),
        (COLUMN, 1),
    ],
)
def test_standard_input_is_told_apart_by_its_content(monkeypatch, data, found):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data.encode())))
    assert len(import_paths(["-"], ImportOptions(("logical",))).examples) == found


FENCES = {
    "longer_fence": "````markdown\n```sh\n````\n",
    "inline": "```boil --now```\n",
    "mixed": "~~~text\nA fence may hold ``` too.\n```\n~~~\n",
    "nested": "````markdown\n```sh\nboil --without-looking\n```\n````\n",
    "unclosed": "```sh\nboil --now\n",
}


@pytest.mark.parametrize("fence", FENCES.values(), ids=FENCES.keys())
def test_fences_do_not_swallow_a_manual(tmp_path, fence):
    (tmp_path / "x.md").write_text(f"# Kettle\n\n{fence}\n## Safety\n\nKeep it away from children.\n")
    report = import_file(tmp_path / "x.md", "logical")
    assert report.examples[-1].output == "Keep it away from children."
    assert not any("without-looking" in example.output for example in report.examples)
    assert bool(report.left_out) == (fence != FENCES["inline"])


def test_front_matter_is_passed_over_and_lists_keep_their_lines(tmp_path):
    (tmp_path / "x.md").write_text("---\ntitle: Tea\ntags:\n  - hot\n---\n\n# Tea\n\nYou need\n- water\n- leaves\n")
    report = import_file(tmp_path / "x.md", "logical")
    assert [(e.input, e.output) for e in report.examples] == [
        ('What does "Tea" in x.md say?', "You need\n- water\n- leaves")
    ]


@pytest.mark.parametrize(("name", "read"), READERS, ids=[name for name, _ in READERS])
def test_no_bytes_end_a_reader_with_anything_but_an_error_of_its_own(tmp_path, name, read):
    file = tmp_path / "any.bin"

    @settings(max_examples=60)
    @given(st.binary(max_size=300) | st.text(alphabet='{}[]":,\\\r\n`#-PK1e', max_size=200).map(str.encode))
    def holds(data):
        file.write_bytes(data)
        try:
            read(file)
        except LunaError:
            return

    holds()
