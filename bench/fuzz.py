"""Random inputs for everything that reads a user's files or another program's answers.

    python -m bench.fuzz                20,000 inputs over all readers
    python -m bench.fuzz --reader labels --inputs 5000

The bar: 20,000 inputs, and no exception but a `LunaError`. Inputs are random bytes, random JSON (numbers too large,
half characters, NaN, deep nesting), and good files with something changed.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import sqlite3
import tempfile
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from bench.report import keep
from ledger.errors import LunaError

INPUTS = 20_000
_HUGE, _DEEP = "\ue000huge\ue000", "\ue000deep\ue000"


@dataclass(frozen=True)
class Reader:
    """Something that reads what others have written."""

    name: str
    file: str
    """What the input is called on disk."""
    read: Callable[[Path], object]
    inputs: st.SearchStrategy[bytes]


@dataclass
class Outcome:
    """What came of one reader's inputs."""

    read: int = 0
    refused: int = 0
    failed: list[tuple[str, bytes]] = field(default_factory=list)
    """(traceback, input)."""

    @property
    def inputs(self) -> int:
        return self.read + self.refused + len(self.failed)


# ---------------------------------------------------------------------------------------------------------- the inputs

_TEXTS = st.text(st.characters(codec=None), max_size=12) | st.sampled_from(
    ["", " ", "\ud83c", "\ufeff", "\0", "2026-01-31T12:00:00Z", "0001-01-01T00:00:00+14:00",
     "9999-12-31T23:59:59-14:00", "user", "assistant", "system", "logical", "1e999", "../../x", "a" * 3000]
)  # fmt: skip
_SCALARS = (
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | _TEXTS
    | st.sampled_from([_HUGE, _DEEP, 10**400, -(10**400), 10**18, 1e308, -0.0])
)  # fmt: skip


@cache
def json_values(keys: Sequence[str]) -> st.SearchStrategy[Any]:
    """Any JSON value, whose objects often have these keys."""
    names = st.sampled_from(sorted(keys)) | _TEXTS if keys else _TEXTS
    return st.recursive(
        _SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
        max_leaves=6,
    )


def dumped(value: object) -> bytes:
    """JSON in UTF-8, with half characters and numbers that no encoder would write."""
    escaped = len(repr(value)) % 2 == 0
    text = json.dumps(value, ensure_ascii=escaped)
    for mark, raw in ((_HUGE, "9" * 5000), (_DEEP, "[" * 3000 + "]" * 3000)):
        text = text.replace(json.dumps(mark, ensure_ascii=escaped), raw)
    return text.encode("utf-8", "surrogatepass")


def changed(good: Any, keys: Sequence[str]) -> st.SearchStrategy[Any]:
    """A good JSON value with some of its parts replaced, left out, or put beside an odd key."""

    @st.composite
    def draw(pick: st.DrawFn) -> Any:
        value = copy.deepcopy(good)
        for _ in range(pick(st.integers(1, 3))):
            at = value
            while True:
                places = list(at) if isinstance(at, dict) else list(range(len(at)))
                if not places:
                    break
                place = pick(st.sampled_from(places))
                if isinstance(at[place], dict | list) and at[place] and pick(st.booleans()):
                    at = at[place]
                    continue
                what = pick(st.sampled_from(["replace", "replace", "leave out", "add"]))
                if what == "leave out":
                    del at[place]
                elif what == "add" and isinstance(at, dict):
                    at[pick(st.sampled_from(sorted(keys)) | _TEXTS)] = pick(json_values(tuple(keys)))
                else:
                    at[place] = pick(json_values(tuple(keys)))
                break
        return value

    return draw()


def damaged(good: bytes) -> st.SearchStrategy[bytes]:
    """A good file with bytes cut off, put in, or changed."""

    @st.composite
    def draw(pick: st.DrawFn) -> bytes:
        data = bytearray(good)
        for _ in range(pick(st.integers(1, 4))):
            begin = pick(st.integers(0, len(data)))
            end = min(len(data), begin + pick(st.sampled_from([0, 1, 4, 100, len(data)])))
            data[begin:end] = pick(st.binary(max_size=8))
        return bytes(data)

    return draw()


ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1")


def keys_in(value: object) -> set[str]:
    """Every key of every object within a value."""
    if isinstance(value, dict):
        return set(value) | {key for inner in value.values() for key in keys_in(inner)}
    return {key for inner in value for key in keys_in(inner)} if isinstance(value, list) else set()


def json_file(*goods: Any) -> st.SearchStrategy[bytes]:
    """Files of one JSON value: good ones changed, any others, and no JSON at all."""
    keys = tuple(sorted({key for good in goods for key in keys_in(good)}))
    values = st.one_of(*(changed(good, keys) for good in goods), json_values(keys))
    whole = values.map(dumped)
    return whole | st.one_of(*(damaged(json.dumps(good).encode()) for good in goods)) | st.binary(max_size=200)


def json_lines(*goods: Any) -> st.SearchStrategy[bytes]:
    """Files of such values a line, in whatever encoding."""
    whole = st.sampled_from([json.dumps(good).encode() for good in goods])
    lines = st.lists(json_file(*goods) | whole, min_size=1, max_size=4).map(b"\n".join)
    return st.tuples(lines, st.sampled_from(ENCODINGS)).map(
        lambda drawn: (
            drawn[0] if drawn[1] == "utf-8" else drawn[0].decode("utf-8", "replace").encode(drawn[1], "replace")
        )
    )


def toml_file(good: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """TOML files: a good one changed, others, and no TOML at all."""
    import tomli_w

    keys = tuple(sorted(keys_in(good)))
    plain = tomli_w.dumps(good).encode()

    def written(value: object) -> bytes:
        try:
            text = tomli_w.dumps(_without_null(value))
        except (TypeError, AttributeError, ValueError, RecursionError):
            text = str(value)
        return text.replace(f'"{_HUGE}"', "9" * 5000).encode("utf-8", "surrogatepass")

    values = changed(good, keys).map(written) | st.dictionaries(
        st.sampled_from(keys) | _TEXTS, json_values(keys), max_size=3
    ).map(written)
    return values | values.map(lambda data: b"\xef\xbb\xbf" + data) | damaged(plain) | st.binary(max_size=200)


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
    return [_without_null(inner) for inner in value if inner is not None] if isinstance(value, list) else value


def parquet_file(rows: list[dict[str, Any]]) -> st.SearchStrategy[bytes]:
    """Parquet files: good ones with bytes changed, and with columns of other types, names and values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def written(table: Any) -> bytes:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        return bytes(sink.getvalue().to_pybytes())

    def of_rows(found: list[Any]) -> bytes:
        try:
            return written(pa.Table.from_pylist([row for row in found if isinstance(row, dict)]))
        except (pa.ArrowException, TypeError, ValueError, OverflowError, UnicodeError, RecursionError, AttributeError):
            return b"PAR1"

    good = written(pa.Table.from_pylist(rows))
    return changed(rows, sorted(keys_in(rows))).map(of_rows) | damaged(good) | st.binary(max_size=200)


# --------------------------------------------------------------------------------------------------------- the readers


def readers() -> Iterator[Reader]:
    """All of them."""
    yield from _label_readers()
    yield from _text_readers()
    yield from _import_readers()
    yield from _home_readers()
    yield from _reply_readers()


def _label_readers() -> Iterator[Reader]:
    from curriculum.preferences.pairs import read_preference_set
    from curriculum.preferences.sources import read_pairs
    from curriculum.reward import VALUES, read_labels, read_preferences
    from curriculum.reward.labels import inspect_labels
    from curriculum.reward.scores import read_scores
    from curriculum.teacher.candidates import read_candidates
    from jobs.teacher.rows import RowFile, read_manifest, read_rows

    reward = dict.fromkeys(VALUES, 0.5) | {"scalar": 0.4}
    label = {"prompt_id": "a", "category": "b", "prompt": "May I?", "response": "You may.", "reward": reward,
             "source": "teacher", "provenance": {"style": "warm"}}  # fmt: skip
    pair = {"prompt": "May I?", "chosen": "You may.", "rejected": "No.", "margin": 1.0, "weight": 1, "role": "logical",
            "origin": "imported", "provenance": "{}", "context": ""}  # fmt: skip
    talk = {
        "prompt": [{"role": "user", "content": "May I?"}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "You may."}]}],
        "rejected": [{"role": "assistant", "content": "No."}],
    }
    teachers = {"prompt_id": "a", "prompt": "May I?", "chosen": "You may.", "rejected": "No.", "score_margin": 0.5}
    answer = {"prompt": "May I?", "response": "You may.", "number": 1, "source": "teacher", "category": "b"}

    def twice(path: Path) -> None:
        for rule in ("clamp", "drop", "refuse"):
            inspect_labels(path, rule)
        read_labels(path, out_of_range="clamp")

    def appended(path: Path) -> None:
        read_rows(path)
        with RowFile(path):
            pass

    yield Reader("labels", "labels.jsonl", twice, json_lines(label))
    yield Reader("preference pairs", "pairs.jsonl", read_pairs, json_lines(pair, talk, teachers))
    yield Reader("a teacher's preferences", "pairs.jsonl", read_preferences, json_lines(teachers))
    yield Reader("answers to judge", "answers.jsonl", read_candidates, json_lines(answer))
    yield Reader("rows of a run", "rows.jsonl", appended, json_lines(answer))
    yield Reader("a run's manifest", "m.json", read_manifest, json_file({"identity": {"by": "x"}, "state": "done"}))
    yield Reader("frozen pairs", "pairs.parquet", read_preference_set, parquet_file([pair | {"id": "x"}]))
    yield Reader("frozen scores", "scores.parquet", read_scores, parquet_file([{"id": "x", **reward}]))


def _text_readers() -> Iterator[Reader]:
    from cluster.settings import settings_of
    from curriculum.regression import read_regression_prompts
    from curriculum.teacher.seed_prompts import read_prompts
    from ledger.home import Home

    luna = {
        "profile": "tiny", "seed": 1, "train": {"steps": 4, "lr": 0.1, "engine": "auto", "batch_size": {"logical": 2}},
        "serving": {"host": "127.0.0.1", "port": 8000}, "teacher": {"base_url": "http://x/v1", "model": "m"},
        "gates": {"recall_min": 0.5}, "data": {"holdout_percent": 20}, "lora": {"rank": 4, "alpha": 8.0},
        "blends": {"alphas": [0.5]}, "reward": {"out_of_range": "clamp"}, "interpolation": {},
    }  # fmt: skip
    regression = {"a": {"role": "logical", "prompt": "1 + 1?", "must": ["2"], "must_not": [], "tokens": 5}}

    yield Reader("luna.toml", "luna.toml", lambda path: settings_of(Home(path.parent)), toml_file(luna))
    yield Reader("prompts to judge", "prompts.toml", read_prompts, toml_file({"a": {"one": "May I?"}}))
    yield Reader("regression prompts", "regress.toml", read_regression_prompts, toml_file(regression))


def _import_readers() -> Iterator[Reader]:
    from curriculum.importing import import_file
    from curriculum.parquet import read_examples, read_new_data

    record = {
        "role": "logical", "stage": "conversations", "category": "a", "kind": "pure", "input": "1 + 1?", "output": "2",
        "context": "", "source": "x", "weight": 1.0, "created_at": "2026-01-31T12:00:00Z",
    }  # fmt: skip
    said = [{"role": "user", "content": "May I?"}, {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}]
    forms: list[Any] = [
        record,
        {"messages": said, "weight": 1, "tools": []},
        {"conversations": [{"from": "human", "value": "May I?"}, {"from": "gpt", "value": "Yes."}]},
        {"instruction": "Add.", "input": "1 + 1", "output": "2"},
        {"prompt": "May I?", "completion": "Yes."},
        {"prompt": said[:1], "chosen": said[1:], "rejected": [{"role": "assistant", "content": "No."}], "margin": 1.0},
        _chatgpt(),
        {"uuid": "x", "name": "n", "created_at": "2026-01-31T12:00:00Z", "chat_messages": [
            {"sender": "human", "text": "May I?", "created_at": "2026-01-31T12:00:00Z"},
            {"sender": "assistant", "text": "Yes.", "content": [{"type": "text", "text": "Yes."}]}]},
        {"id": "x", "title": "t", "chat": {"history": {"currentId": "b", "messages": {
            "a": {"id": "a", "parentId": None, "childrenIds": ["b"], "role": "user", "content": "May I?"},
            "b": {"id": "b", "parentId": "a", "childrenIds": [], "role": "assistant", "content": "Yes.",
                  "annotation": {"rating": 1}}}}}},
    ]  # fmt: skip
    table = b'input,output,role\n1 + 1?,2,logical\n"May, I?",Yes.,creative\n'
    text = st.text(st.characters(codec=None), max_size=300).map(lambda drawn: drawn.encode("utf-8", "surrogatepass"))

    def imported(path: Path) -> object:
        return import_file(path, "logical")

    for ending, inputs in {
        "jsonl": json_lines(*forms),
        "json": json_file(*([form] for form in forms)),
        "csv": text | damaged(table),
        "tsv": text | damaged(table.replace(b",", b"\t")),
        "zip": _archives(json_file(*([form] for form in forms))),
        "parquet": parquet_file([record]),
        "md": text | damaged(b"# Head\n\nText of it.\n\n```\ncode\n```\n\n- a\n- b\n"),
        "txt": text | damaged(b"A line.\n\nAnother one.\n"),
    }.items():
        yield Reader(f"import of .{ending}", f"data.{ending}", imported, inputs)
    new = record | {"id": "x", "group": "", "side": "train", "filling": ""}
    yield Reader("frozen new data", "data.parquet", read_new_data, parquet_file([new]))
    yield Reader("frozen examples", "data.parquet", read_examples, parquet_file([record | {"id": "x", "group": ""}]))


def _chatgpt() -> dict[str, Any]:
    """A conversation as its export has it: a tree of messages."""

    def node(name: str, parent: str | None, children: list[str], role: str, said: str) -> dict[str, Any]:
        content = {"content_type": "text", "parts": [said]}
        message = {"id": name, "author": {"role": role}, "create_time": 1.7e9, "content": content, "weight": 1.0}
        return {"id": name, "parent": parent, "children": children, "message": message}

    nodes = {
        "r": {"id": "r", "message": None, "parent": None, "children": ["a"]},
        "a": node("a", "r", ["b"], "user", "May I?"),
        "b": node("b", "a", [], "assistant", "Yes."),
    }
    return {"title": "t", "create_time": 1.7e9, "current_node": "b", "mapping": nodes}


def _archives(files: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Zip archives of such files, whole and damaged."""

    def packed(drawn: list[tuple[str, bytes]]) -> bytes:
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one name twice is what is wanted
            for name, data in drawn:
                archive.writestr(name, data)
        return sink.getvalue()

    names = st.sampled_from(["conversations.json", "a/b.jsonl", "../../x.json", "/x.csv", "x.zip", "d/", "x.md"])
    whole = st.lists(st.tuples(names, files), max_size=3).map(packed)
    good = packed([("conversations.json", json.dumps([_chatgpt()]).encode())])
    return whole | damaged(good) | st.binary(max_size=100)


def _home_readers() -> Iterator[Reader]:
    from safetensors.numpy import save

    from cluster.ray_head import started_by_luna
    from ledger.metadata import read_adapter_config, read_metadata, update_karma
    from trainers.models.adapters import check_shape, lora_of, read_tensors
    from trainers.reward.model import load_reward_model

    metadata = {"generation": 1, "role": "logical", "karma": {"earned": 0.0}, "model_file": {"name": "x"}}
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "base_model_name_or_path": "x"}
    import numpy

    weights = save({"base_model.model.layers.0.lora_A.weight": numpy.zeros((2, 3), numpy.float32)})

    def adapter(path: Path) -> None:
        read_adapter_config(path.parent)
        check_shape(path.parent, 4, 8)
        lora_of(path.parent)

    def karma(path: Path) -> None:
        read_metadata(path.parent)
        update_karma(path.parent, 3.0, 1, "2026-01-31T12:00:00Z")

    def reward(path: Path) -> None:
        (path.parent / "config.json").write_bytes(path.read_bytes())
        load_reward_model(path.parent)

    def head(path: Path) -> None:
        (path.parent / "ray").mkdir()
        path.rename(path.parent / "ray" / path.name)
        with patch.dict(os.environ, {"RAY_TMPDIR": str(path.parent)}):
            started_by_luna()

    yield Reader("METADATA.json", "METADATA.json", karma, json_file(metadata))
    yield Reader("adapter_config.json", "adapter_config.json", adapter, json_file(config))
    yield Reader(
        "adapter weights", "adapter_model.safetensors", lambda path: read_tensors(path.parent), damaged(weights)
    )
    yield Reader("a reward model", "METADATA.json", reward, json_file({"sha": "x", "validation": {}}))
    note = {"address": "127.0.0.1:1", "prefix": "/x", "processes": [[1, 2.0]]}
    yield Reader("the note of a head", "luna_head.json", head, json_file(note))
    yield Reader("luna.db", "luna.db", _read_home, _databases())


@cache
def _good_database() -> bytes:
    """A recorded ledger of two generations, brought up to date, with a conversation and a label."""
    from ledger.conversations import Label, Turn
    from ledger.home import Home
    from ledger.store import Stores

    recorded = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "recorded" / "luna.sql"
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder)).create()
        with closing(sqlite3.connect(home.db)) as connection:
            connection.executescript(recorded.read_text(encoding="utf-8"))
        with Stores.create(home) as stores:
            at = "2026-01-31T12:00:00Z"
            turn = Turn(
                id="b" * 32, conversation="c" * 32, lineage=stores.ledger.current_lineage(), kind="generate",
                role="base", message="May I?", context="", answer="You may.", generation=None, adapter_sha=None,
                prompt_tokens=1, answer_tokens=1, finish_reason="stop", seconds=0.1, temperature=0.0, seed=None, at=at,
            )  # fmt: skip
            stores.conversations.add_turn(turn)
            stores.conversations.add_label(turn.id, Label(valence=1, at=at))
        with closing(sqlite3.connect(home.db)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
        return home.db.read_bytes()


def _databases() -> st.SearchStrategy[bytes]:
    """A home's database with a cell changed, or with bytes changed."""
    good = _good_database()

    @st.composite
    def draw(pick: st.DrawFn) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "luna.db")
            path.write_bytes(good)
            connection = sqlite3.connect(path)
            connection.execute("PRAGMA ignore_check_constraints = ON")
            for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                connection.execute(f"DROP TRIGGER {trigger}")
            named = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
            )
            table = pick(st.sampled_from(sorted(name for (name,) in named)))
            columns = sorted(row[1] for row in connection.execute(f"PRAGMA table_info({table})"))
            value = pick(
                st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.binary(max_size=20) | st.text()
            )
            try:
                connection.execute(f"UPDATE {table} SET {pick(st.sampled_from(columns))} = ?", (value,))
                connection.commit()
            except (sqlite3.Error, UnicodeError):
                pass
            connection.close()
            return path.read_bytes()

    return draw() | damaged(good)


def _read_home(path: Path) -> None:
    """What the commands that show a home read of it."""
    from ledger.home import Home
    from ledger.journal import RunJournal
    from ledger.store import Stores
    from ledger.verification.ledger import verify

    home = Home(path.parent)

    def each() -> Iterator[Callable[[], object]]:
        stores = stack.enter_context(Stores.open(home))
        yield stores.ledger.lineages
        yield stores.ledger.head
        yield stores.ledger.rows
        yield stores.ledger.all_evals
        yield stores.ledger.stop_of
        yield stores.ledger.age
        yield lambda: stores.ledger.generation(1)
        yield RunJournal(stores.ledger.db).runs
        yield stores.conversations.latest
        yield stores.conversations.labelled_turns
        yield lambda: stores.conversations.turns("c" * 32)
        yield lambda: stores.conversations.unscored(10)

    refused = None
    with ExitStack() as stack:
        try:
            for read in each():
                try:
                    read()
                except LunaError as error:
                    refused = error
        except LunaError as error:
            refused = error
    verify(home)
    if refused is not None:
        raise refused


def _reply_readers() -> Iterator[Reader]:
    from pydantic import TypeAdapter

    from curriculum.teacher.answers import LabelRefused, parse_answer
    from jobs.http import answered, events
    from ledger.conversations import LabelledTurn
    from ledger.home import Home

    answer = {"rationale": "Fine.", "empathy": 0.5, "reward_intensity": 0.5, "safety_score": 0.5, "check": "abcd"}
    error = {"error": {"message": "no", "param": "seed", "code": 400}, "detail": [{"loc": ["body", "x"], "msg": "no"}]}
    reply = {"choices": [{"message": {"content": "You may.", "refusal": None}, "finish_reason": "stop"}], "usage": {}}
    turn = {"id": "b" * 32, "answer": "You may.", "conversation": "c" * 32, "label": {"valence": 1}, "score": None}

    def judged(path: Path) -> None:
        try:
            parse_answer(path.read_bytes().decode("utf-8", "surrogatepass"), "abcd")
        except (LabelRefused, UnicodeDecodeError) as refused:
            raise LunaError(str(refused)) from refused

    def served(path: Path) -> None:
        with _serving(path.read_bytes()) as port:
            home = Home(path.parent)
            home.settings_file.write_text(f'profile = "tiny"\n[serving]\nport = {port}\n')
            for read in (
                lambda: answered(home, "GET", "/conversations/x", TypeAdapter(list[LabelledTurn])),
                lambda: list(events(home, "/generate", {})),
                lambda: _asked_teacher(port),
            ):
                with suppress(LunaError):
                    read()

    heads = st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 400 No\r\n", b"HTTP/1.1 503 No\r\n", b""])
    more = st.sampled_from(
        [b"", b"Content-Encoding: gzip\r\n", b"Retry-After: 0\r\n", b"Retry-After: soon\r\n", b"Location: /x\r\n",
         b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n"]
    )  # fmt: skip
    frame = st.tuples(
        st.sampled_from([b"", b"event: token\ndata: ", b"event: turn\ndata: ", b"data: "]), json_file(turn)
    )
    body = json_file(error, reply, [turn]) | st.lists(frame.map(b"".join), max_size=3).map(b"\n\n".join)
    yield Reader("a judge's answer", "answer.txt", judged, json_file(answer))
    yield Reader("replies over HTTP", "reply", served, st.tuples(heads, more, st.just(b"\r\n"), body).map(b"".join))


def _asked_teacher(port: int) -> None:
    """One request of a teacher's client, without another try."""
    import asyncio

    from curriculum.teacher.settings import TeacherSettings
    from jobs.teacher.budget import GivenUp
    from jobs.teacher.endpoint import Endpoint

    asked = TeacherSettings(base_url=f"http://127.0.0.1:{port}/v1", model="m", max_retries=0, requests_per_minute=0)

    async def ask() -> None:
        endpoint = Endpoint(asked, lambda _: None)
        try:
            await endpoint.complete("x", "m", [{"role": "user", "content": "?"}], str, writing=False)
        except GivenUp:
            pass
        finally:
            await endpoint.close()

    asyncio.run(ask())


@contextmanager
def _serving(reply: bytes) -> Iterator[int]:
    """A port of this machine where every request gets these bytes."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.wfile.write(reply)

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


# ------------------------------------------------------------------------------------------------------------- running


def fuzz(reader: Reader, inputs: int, number: int = 1) -> Outcome:
    """Give a reader so many inputs; equal numbers give equal inputs."""
    outcome = Outcome()

    @seed(number)
    @settings(max_examples=inputs, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(reader.inputs)
    def run(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, reader.file)
            path.write_bytes(data)
            try:
                reader.read(path)
                outcome.read += 1
            except LunaError:
                outcome.refused += 1
            except Exception:  # what is looked for
                outcome.failed.append((traceback.format_exc(), data))

    run()
    return outcome


def _place(trace: str) -> str:
    """The line of ours that a traceback ends in."""
    ours = [line for line in trace.splitlines() if line.startswith("  File ") and "site-packages" not in line]
    return ours[-1] if ours else trace


def main() -> None:
    parser = argparse.ArgumentParser(description="Random inputs for every reader.")
    parser.add_argument("--inputs", type=int, default=INPUTS, help="over all readers")
    parser.add_argument("--reader", help="only this one")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chosen = [reader for reader in readers() if arguments.reader in (None, reader.name)]
    each = -(-arguments.inputs // len(chosen))
    rows: list[tuple[str, ...]] = []
    total = failed = 0
    for reader in chosen:
        outcome = fuzz(reader, each, arguments.seed)

        for trace in list({_place(trace): trace for trace in (trace for trace, _ in outcome.failed)}.values())[:5]:
            print(reader.name, trace, sep="\n")
        print(f"{reader.name}: {outcome.inputs} inputs, {outcome.read} read, {outcome.refused} refused, "
              f"{len(outcome.failed)} failed", flush=True)  # fmt: skip
        rows.append((reader.name, *(f"{n:,}" for n in (outcome.inputs, outcome.read, outcome.refused))))
        rows[-1] += (str(len(outcome.failed)),)
        total, failed = total + outcome.inputs, failed + len(outcome.failed)
    if total >= INPUTS:
        keep(
            "fuzz", "Random inputs for every reader", ("reader", "inputs", "read", "refused", "tracebacks"), rows,
            [f"{total:,} inputs over {len(chosen)} readers, {failed} tracebacks; the bar is {INPUTS:,} without any: "
             + ("met" if total >= INPUTS and not failed else "NOT met")],
        )  # fmt: skip


if __name__ == "__main__":
    main()
