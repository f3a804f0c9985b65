"""Content under its SHA-256: what is cut off, lost, full or foreign is fetched again or refused, never used."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.store.content import Store, WrongContentError, fetch, put
from cluster.store.shelves import FileShelf
from ledger.errors import LunaError
from ledger.files import sha256_bytes

DATA = bytes(range(256)) * 100_000
"""Several parts."""


class CountingShelf(FileShelf):
    """A folder that tells how often it was read."""

    reads = 0

    def read(self, sha: str) -> Iterator[bytes]:
        self.reads += 1
        return super().read(sha)


@pytest.fixture
def shelf(tmp_path: Path) -> CountingShelf:
    return CountingShelf(str(tmp_path / "shelf"))


@pytest.fixture
def store(shelf: CountingShelf, tmp_path: Path) -> Store:
    return Store(shelf, tmp_path / "cache")


@pytest.fixture
def sha(store: Store, tmp_path: Path) -> str:
    (tmp_path / "file").write_bytes(DATA)
    return store.put(tmp_path / "file")


def cached(tmp_path: Path) -> list[str]:
    return sorted(file.name for file in (tmp_path / "cache").rglob("*") if file.is_file() and file.name[0] != ".")


@given(data=st.binary(max_size=300))
@pytest.mark.parametrize("address", [str, Path.as_uri])
def test_what_was_put_is_what_is_got(
    tmp_path_factory: pytest.TempPathFactory, address: Callable[[Path], str], data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("store")
    (folder / "file").write_bytes(data)
    store = Store(FileShelf(address(folder / "shelf")), folder / "cache")
    sha = store.put(folder / "file")
    assert sha == sha256_bytes(data)
    assert store.get(sha).read_bytes() == data


def test_what_is_in_the_cache_is_not_fetched_again(
    store: Store, shelf: CountingShelf, sha: str, tmp_path: Path
) -> None:
    for one in (store, store, Store(shelf, tmp_path / "cache")):
        assert one.get(sha).read_bytes() == DATA
    assert shelf.reads == 1


def test_of_several_trainers_on_a_node_one_fetches(shelf: CountingShelf, sha: str, tmp_path: Path) -> None:
    threads = [threading.Thread(target=Store(shelf, tmp_path / "cache").get, args=(sha,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shelf.reads == 1


@pytest.mark.parametrize("broken", [DATA[:-1], DATA[:-1] + b"x", b""], ids=["cut off", "another byte", "empty"])
@pytest.mark.parametrize("same_process", [True, False])
def test_a_broken_file_of_the_cache_is_fetched_again(
    store: Store, shelf: CountingShelf, sha: str, tmp_path: Path, broken: bytes, same_process: bool
) -> None:
    store.get(sha).write_bytes(broken)
    again = store if same_process else Store(shelf, tmp_path / "cache")
    assert again.get(sha).read_bytes() == DATA
    assert shelf.reads == 2


def test_a_process_that_dies_while_it_fetches_leaves_nothing_under_the_name(
    store: Store, shelf: CountingShelf, sha: str, tmp_path: Path
) -> None:
    class Deadly(FileShelf):
        def read(self, sha: str) -> Iterator[bytes]:
            yield DATA[:1000]
            os.kill(os.getpid(), signal.SIGKILL)

    if (child := os.fork()) == 0:
        Store(Deadly(str(tmp_path / "shelf")), tmp_path / "cache").get(sha)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert cached(tmp_path) == []
    assert store.get(sha).read_bytes() == DATA


@pytest.mark.parametrize("is_local", [True, False], ids=["folder", "like S3"])
def test_a_put_that_is_broken_off_leaves_nothing_under_the_name(tmp_path: Path, is_local: bool) -> None:
    def broken_off() -> Iterator[bytes]:
        yield DATA[:1000]
        raise LunaError("the node was lost")

    shelf = FileShelf(str(tmp_path))
    shelf._is_local = is_local
    name = sha256_bytes(DATA)
    with pytest.raises(LunaError, match="was lost"):
        shelf.write(name, broken_off())
    assert list(tmp_path.iterdir()) == []
    shelf.write(name, [DATA])
    fetch(shelf, name, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == DATA


def test_what_lies_cut_off_on_a_shelf_is_put_again(store: Store, shelf: FileShelf, sha: str, tmp_path: Path) -> None:
    (tmp_path / "shelf" / sha).write_bytes(DATA[:10])
    store.put(tmp_path / "file")
    assert store.get(sha).read_bytes() == DATA


def test_what_arrives_wrong_once_is_fetched_again_and_what_lies_wrong_is_refused(
    store: Store, sha: str, tmp_path: Path
) -> None:
    class Noisy(FileShelf):
        wrong = 1

        def read(self, sha: str) -> Iterator[bytes]:
            self.wrong -= 1
            return super().read(sha) if self.wrong < 0 else iter([DATA[:-1]])

    noisy = Noisy(str(tmp_path / "shelf"))
    fetch(noisy, sha, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == DATA
    (tmp_path / "shelf" / sha).write_bytes(DATA[:-1] + b"x")
    with pytest.raises(WrongContentError, match=f"shelf has other bytes under {sha}.*delete"):
        store.get(sha)
    assert cached(tmp_path) == []


def test_what_a_shelf_lacks_is_named_with_the_place(store: Store, tmp_path: Path) -> None:
    with pytest.raises(LunaError, match=rf"the store {tmp_path}/shelf could not be read: .*{'0' * 64}"):
        store.get("0" * 64)


@pytest.mark.parametrize("place", ["nowhere://bucket", "s3://", "file:" + "//relative"])
def test_a_store_that_cannot_be_opened_is_named(place: str) -> None:
    with pytest.raises(LunaError, match=rf"\[cluster\] store = '{place}' cannot be opened"):
        FileShelf(place)


def test_a_file_that_grows_meanwhile_is_put_as_it_was(shelf: FileShelf, tmp_path: Path) -> None:
    file = tmp_path / "events"
    file.write_bytes(b"step 1\n")

    class Growing(FileShelf):
        def has(self, sha: str, size: int) -> bool:
            file.write_bytes(b"step 1\nstep 2\n")
            return super().has(sha, size)

    sha = put(Growing(str(tmp_path / "shelf")), file)
    assert sha == sha256_bytes(b"step 1\n")
    fetch(shelf, sha, tmp_path / "got")


def test_the_cache_drops_what_was_not_used_for_longest_but_not_what_is_laid(
    store: Store, shelf: FileShelf, tmp_path: Path
) -> None:
    shas = []
    for number in range(4):
        (tmp_path / "file").write_bytes(bytes([number]) * 1000)
        shas.append(store.put(tmp_path / "file"))
        os.utime(store.get(shas[-1]), (number, 0))
    store.lay(shas[0], tmp_path / "laid" / "file")
    os.utime(tmp_path / "laid" / "file", (0, 0))  # the same file under another name
    store.trim(2000)
    assert cached(tmp_path) == sorted([shas[0], shas[3]])
    assert (tmp_path / "laid" / "file").read_bytes() == bytes(1000)


FULL = """
import sys
from pathlib import Path
from cluster.store.content import Store
from cluster.store.shelves import FileShelf
from ledger.errors import LunaError
store = Store(FileShelf(sys.argv[1]), Path(sys.argv[2]))
try:
    store.get(sys.argv[3])
except LunaError as error:
    print(error)
print([str(file) for file in Path(sys.argv[2]).rglob("*") if file.is_file() and file.stat().st_size])
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="mounts a small disk")
def test_a_full_disk_is_named_and_holds_nothing_afterwards(shelf: FileShelf, sha: str, tmp_path: Path) -> None:
    cache = tmp_path / "full"
    cache.mkdir()
    inside = f"mount -t tmpfs -o size=1m none {cache} && exec {sys.executable} -c '{FULL}' \"$@\""
    command = ["unshare", "-m", "sh", "-c", inside, "sh", str(tmp_path / "shelf"), str(cache), sha]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    told, left = done.stdout.splitlines()
    assert "No space left on device" in told
    assert str(cache) in told
    assert left == "[]"


def test_a_shelf_takes_parts_from_anywhere(tmp_path: Path) -> None:
    """Of another file system than a local one the stream is pyarrow's."""

    def parts() -> Iterable[bytes]:
        return iter([b"a", b"b"])

    shelf = FileShelf(str(tmp_path))
    shelf._is_local = False
    shelf.write(sha256_bytes(b"ab"), parts())
    assert shelf.has(sha256_bytes(b"ab"), 2)
    assert not shelf.has(sha256_bytes(b"ab"), 3)
    shelf.delete(sha256_bytes(b"ab"))
    assert not shelf.has(sha256_bytes(b"ab"), 2)
