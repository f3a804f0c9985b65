"""Files of one JSON value a line."""

import pytest

from curriculum.jsonl import numbered_lines, parse_line
from ledger.errors import LunaError


def test_lines_keep_their_numbers_and_separators_inside_a_text(tmp_path):
    file = tmp_path / "some.jsonl"
    file.write_bytes('\ufeff{"a": "x\u2028y"}\n\n[1]\r\n'.encode())
    assert [(number, parse_line(line)) for number, line in numbered_lines(file)] == [(1, {"a": "x\u2028y"}), (3, [1])]


@pytest.mark.parametrize(
    ("line", "reason"), [(b'"\xe9"', "not UTF-8"), (b"{", "not JSON"), (b"[" * 100_000, "not JSON")]
)
def test_a_line_that_cannot_be_read_says_why(line, reason):
    with pytest.raises(LunaError, match=reason):
        parse_line(line)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LunaError, match=r"none\.jsonl could not be read"):
        numbered_lines(tmp_path / "none.jsonl")
