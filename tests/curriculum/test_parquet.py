"""Examples on disk."""

import dataclasses
import os
import subprocess
import sys

import pytest

from curriculum.parquet import encode_examples, freeze, read_examples, write_examples
from curriculum.recipes import build_recipe
from ledger.errors import LunaError
from ledger.files import sha256_file
from ledger.home import Home


@pytest.fixture
def examples():
    return build_recipe("dialectical", 120, seed=1)


def test_what_is_written_is_read_back(tmp_path, examples):
    sha = write_examples(tmp_path / "delta.parquet", examples)
    assert read_examples(tmp_path / "delta.parquet") == examples
    assert sha == sha256_file(tmp_path / "delta.parquet")


def test_a_folder_gets_a_file_named_by_its_hash(tmp_path, examples):
    sha = write_examples(tmp_path, examples)
    assert [path.name for path in tmp_path.iterdir()] == [f"{sha}.parquet"]


def test_equal_content_gives_equal_bytes_in_another_process(tmp_path, examples):
    code = (
        "import hashlib; from curriculum.recipes import build_recipe; from curriculum.parquet import encode_examples;"
        "print(hashlib.sha256(encode_examples(build_recipe('dialectical', 120, seed=1))).hexdigest())"
    )
    env = {**os.environ, "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "99"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == write_examples(tmp_path, examples)


def test_a_file_from_before_there_were_groups_is_read_with_empty_ones(tmp_path, examples):
    import pyarrow as pa
    import pyarrow.parquet as pq

    grouped = [dataclasses.replace(example, group="document/abc") for example in examples]
    write_examples(tmp_path / "new.parquet", grouped)
    assert read_examples(tmp_path / "new.parquet") == grouped
    pq.write_table(pq.read_table(pa.BufferReader(encode_examples(grouped))).drop(["group"]), tmp_path / "old.parquet")
    assert read_examples(tmp_path / "old.parquet") == examples


def test_another_order_or_content_gives_other_bytes(examples):
    assert encode_examples(examples) != encode_examples(examples[::-1])
    assert encode_examples(examples) != encode_examples(examples[:-1])


def test_freezing_puts_the_set_under_its_hash_and_twice_is_once(tmp_path, examples):
    home = Home(tmp_path / "home")
    sha = freeze(examples, home)
    before = home.data_file(sha).stat().st_mtime_ns
    assert freeze(examples, home) == sha
    assert home.data_file(sha).stat().st_mtime_ns == before
    assert read_examples(home.data_file(sha)) == examples


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LunaError, match=r"gone\.parquet"):
        read_examples(tmp_path / "gone.parquet")


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    (tmp_path / "x.parquet").write_text("hello")
    with pytest.raises(LunaError, match=r"x\.parquet is not a readable Parquet file"):
        read_examples(tmp_path / "x.parquet")


def test_a_truncated_file_is_named(tmp_path, examples):
    write_examples(tmp_path / "x.parquet", examples)
    (tmp_path / "x.parquet").write_bytes((tmp_path / "x.parquet").read_bytes()[:-200])
    with pytest.raises(LunaError, match=r"x\.parquet"):
        read_examples(tmp_path / "x.parquet")


def test_a_row_whose_content_was_changed_is_named(tmp_path, examples):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{name: getattr(example, name) for name in example.__dataclass_fields__} for example in examples]
    rows[4]["output"] = "something else"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    with pytest.raises(LunaError, match="row 5: id"):
        read_examples(tmp_path / "x.parquet")


@pytest.mark.slow
def test_the_datasets_library_reads_a_frozen_set(tmp_path, examples):
    import datasets

    write_examples(tmp_path / "x.parquet", examples)
    loaded = datasets.Dataset.from_parquet(str(tmp_path / "x.parquet"), cache_dir=str(tmp_path / "cache"))
    assert loaded["input"][:] == [example.input for example in examples]
    assert loaded.column_names[0] == "id"
