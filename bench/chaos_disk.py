"""Full and read-only disks under a run in one process: the coordinator, its stores and a real training, without Ray.

The home lies on a disk of its own. A full one is a tmpfs that ends after so many pages; one that turns read-only is an
ext4 image that is told of an error, as a kernel does with a disk that fails, while files are open for writing. That
takes root.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from bench.chaos_faults import MOST_TRIES, ON_DISK, Fault, Kind, Outcome
from bench.chaos_home import LINEAGE, Accepted, accepted, bring, examine, new_home, request_of, unspoken
from cluster.placement import Groups, Placement, place_roles
from cluster.request import GenerationRequest
from cluster.settings import Settings
from cluster.trainer_actor import TrainerActor
from cluster.trainer_pool import Calls, TrainerPool, TrainerSession
from ledger.errors import LunaError
from ledger.home import Home
from ledger.journal import Step
from ledger.store import Stores
from trainers.models.frozen import Base

_ROOM = 64 << 20
_LOOK_S = 0.001
_TURN_S = 300
"""Longest time that a run may take."""
_MOST_RESUMES = 3

_fork = multiprocessing.get_context("fork")  # what is imported here is imported in every run's process


# -- the run ---------------------------------------------------------------------------------------------------------


class LocalPool(TrainerPool):
    """The trainers of one process: itself."""

    def open(self, home: Home, base: Base, settings: Settings, recorded: Groups | None = None) -> TrainerSession:
        """A session that asks a trainer in this process."""
        return LocalSession({}, recorded or Groups(place_roles(0)), base, settings)


class LocalSession(TrainerSession):
    """As a session with actors, but for who is asked."""

    _actor: TrainerActor | None = None

    def _ask(self, calls: Calls) -> dict[Placement, Any]:
        if self._actor is None:
            self._actor = TrainerActor("local")
            self._actor.open(self._setup.base, self._settings.train, self._settings.lora)
        answers = {}
        for group, arguments in calls.arguments.items():
            answers[group] = getattr(self._actor, calls.method)(*arguments)
            calls.answered(group, answers[group])
        return answers


@dataclass(frozen=True)
class Told:
    """How a run's process says that it ended."""

    state: str
    reason: str
    gen_id: int | None = None
    """Of a generation that it says is accepted."""


def _live(root: str, request: GenerationRequest, orders: Connection) -> None:
    """A coordinator's process: asks it for the generation at every order, and tells how that ended."""
    from cluster.coordinator import Coordinator

    log = os.open(Path(root).parent.parent / "runs.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # on no such disk
    os.dup2(log, 2)
    logging.raiseExceptions = False  # of a log line that finds no room
    first_life = SimpleNamespace(was_current_actor_reconstructed=False)
    patch("cluster.coordinator.ray.get_runtime_context", lambda: first_life).start()
    patch("cluster.coordinator.TrainerPool", LocalPool).start()
    patch("serving.app.serve_runs", lambda: False).start()
    coordinator = Coordinator(root)
    with suppress(EOFError):
        while orders.recv():
            orders.send(_raised(coordinator, request))
    os._exit(0)


def _raised(coordinator: Any, request: GenerationRequest) -> Told:
    try:
        coordinator.open()
        coordinator.submit(request)
    except LunaError as error:
        return Told("refused", str(error))
    while (state := coordinator.state()).running:
        time.sleep(_LOOK_S)
    ended = state.ended
    is_accepted = ended.judged is not None and ended.judged.verdict == "accepted"
    return Told(ended.state, ended.reason, state.gen_id if is_accepted else None)


class Turn:
    """A run's process as its parent sees it."""

    def __init__(self, home: Home, request: GenerationRequest):
        self._orders, theirs = _fork.Pipe()
        self._process = _fork.Process(target=_live, args=(str(home.root), request, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.go()

    def go(self) -> None:
        """Ask for the generation, or that it goes on."""
        with suppress(OSError):  # it has died, which is seen where its answer is awaited
            self._orders.send(True)

    @property
    def has_told(self) -> bool:
        return self._orders.poll()

    def told(self) -> Told:
        """How it ended."""
        if not self._orders.poll(_TURN_S):
            return Told("hangs", "")
        try:
            return self._orders.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            return Told("died", f"Error: the process ended by itself with {self._process.exitcode}")

    def end(self) -> None:
        """End the process, however it is."""
        self._orders.close()
        self._process.kill()
        self._process.join()


# -- the disks -------------------------------------------------------------------------------------------------------


def _run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)


@dataclass(frozen=True)
class Disk:
    """A mounted disk of some megabytes; with an image it is ext4, else tmpfs."""

    folder: Path
    image: Path | None = None

    def mount(self) -> None:
        """Make it there."""
        if self.image is None:
            _run("mount", "-t", "tmpfs", "-o", f"size={_ROOM}", "tmpfs", self.folder)
        else:
            _run("mount", "-o", "loop,errors=remount-ro", self.image, self.folder)

    @property
    def used(self) -> int:
        """Bytes."""
        told = os.statvfs(self.folder)
        return (told.f_blocks - told.f_bfree) * told.f_frsize

    def leave_room(self, size: int) -> None:
        """Let it end after so many bytes more."""
        for _ in range(10):
            with suppress(subprocess.CalledProcessError):  # more was written meanwhile than was to be left
                _run("mount", "-o", f"remount,size={self.used + size}", self.folder)
                return
        raise LunaError(f"{self.folder} is written so fast that it cannot be made smaller.")

    def fail(self) -> None:
        """Tell the kernel of an error, upon which it lets nobody write any more."""
        source = subprocess.run(
            ["findmnt", "-n", "-o", "SOURCE", str(self.folder)], check=True, capture_output=True, text=True
        )
        place = Path("/sys/fs/ext4") / Path(source.stdout.strip()).name / "trigger_fs_error"
        place.write_text("an error that a bench made")

    def mend(self) -> None:
        """Let it be written again. A process that still has it open must have ended, unless it was full."""
        if self.image is None:
            _run("mount", "-o", f"remount,size={_ROOM}", self.folder)
        else:
            _run("umount", self.folder)
            subprocess.run(["e2fsck", "-fy", str(self.image)], check=False, capture_output=True)
            self.mount()


@contextmanager
def disk_for(kind: Kind, folder: Path) -> Iterator[Disk]:
    """A fresh disk that can meet this fault."""
    at = folder / "disk"
    at.mkdir(parents=True, exist_ok=True)
    image = None
    if kind == "read-only disk":
        image = folder / "disk.ext4"
        with image.open("wb") as file:
            file.truncate(_ROOM)
        _run("mkfs.ext4", "-q", "-F", "-b", "4096", image)
    disk = Disk(at, image)
    disk.mount()
    try:
        yield disk
    finally:
        _run("umount", "-l", at)
        if image is not None:
            image.unlink()


def possible() -> tuple[Kind, ...]:
    """The faults of a disk that this machine lets us make."""
    found: list[Kind] = []
    for kind in ON_DISK:
        with tempfile.TemporaryDirectory() as folder, suppress(OSError, subprocess.SubprocessError):
            with disk_for(kind, Path(folder)) as disk:
                if disk.image is not None:
                    disk.fail()
                    with suppress(OSError):
                        (disk.folder / "written").touch()
                        continue
            found.append(kind)
    return tuple(found)


# -- a fault ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bed:
    """What every fault of a disk begins with."""

    folder: Path
    template: Home
    """A home with one accepted generation and data for the next."""
    data: str
    written: Mapping[Step | None, int]
    """Bytes that each step of the next generation writes, undisturbed; by None, its admission."""


def make_bed(folder: Path) -> Bed:
    """Make the home, and measure what a generation writes."""
    from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: F401

    import trainers.fused.engine  # noqa: F401  for the processes that are forked from this one

    template = new_home(folder / "undisturbed" / "home")
    _undisturbed(template, bring(template, 0))
    data = bring(template, 1)
    with disk_for("full disk", folder) as disk:
        return Bed(folder, template, data, _written(disk, _copied(template, disk), data))


def _written(disk: Disk, home: Home, data: str) -> dict[Step | None, int]:
    """By step, how far the disk was filled in it beyond its beginning."""
    least, most = dict[Step | None, int](), dict[Step | None, int]()
    turn = Turn(home, request_of(home, data))
    with Stores.open(home) as stores:
        while not turn.has_told:
            step, used = _step_in_work(stores), disk.used
            if step is None and len(least) > 1:  # it is closed already
                continue
            least.setdefault(step, used)
            most[step] = max(most.get(step, 0), used)
            time.sleep(_LOOK_S)
    _expect_done(turn.told())
    turn.end()
    return {step: most[step] - least[step] for step in least}


def _undisturbed(home: Home, data: str) -> None:
    turn = Turn(home, request_of(home, data))
    _expect_done(turn.told())
    turn.end()


def _expect_done(told: Told) -> None:
    if told.state != "done":
        raise LunaError(f"an undisturbed run {told.state}: {told.reason}")


def _copied(template: Home, disk: Disk) -> Home:
    return Home(Path(shutil.copytree(template.root, disk.folder / "home")))


def meet(bed: Bed, fault: Fault) -> Outcome:
    """Let a run meet the fault, mend the disk, let the run go on, and examine its home."""
    for _ in range(MOST_TRIES):
        outcome = _met(bed, fault)
        if outcome.hit:
            break
        fault = fault.earlier()
    return outcome


def _met(bed: Bed, fault: Fault) -> Outcome:
    with disk_for(fault.kind, bed.folder) as disk:
        home = _copied(bed.template, disk)
        os.sync()
        witnessed, request = accepted(home), request_of(home, bed.data)
        begin = time.monotonic()
        turn = Turn(home, request)
        hit = _strike(disk, home, turn, fault, round(fault.share * bed.written.get(fault.step, 0)))
        told = [turn.told()]
        if told[0].state == "done":
            hit = ""
        if hit:
            turn, more = _gone_on(disk, home, request, turn, fault.stays and fault.kind == "full disk")
            told += more
        turn.end()
        return _outcome(fault, hit, told, home, witnessed, time.monotonic() - begin)


def _strike(disk: Disk, home: Home, turn: Turn, fault: Fault, room: int) -> str:
    """Let the disk end or fail after so many bytes of the fault's step; returns the step that was met."""
    with Stores.open(home) as stores:
        if not _wait(turn, lambda: fault.step is None or _has_begun(stores, fault.step)):
            return ""
        size = disk.used + room
        if fault.kind == "full disk":
            disk.leave_room(room)
            _wait(turn, lambda: False)
        elif _wait(turn, lambda: disk.used >= size):
            disk.fail()
        return _step_in_work(stores) or "admission"


def _wait(turn: Turn, is_so: Callable[[], bool]) -> bool:
    """Wait until it is so; False where the run has ended before."""
    while not turn.has_told:
        if is_so():
            return True
        time.sleep(_LOOK_S)
    return False


def _has_begun(stores: Stores, step: Step) -> bool:
    run = stores.journal.open_run(LINEAGE)
    return run is not None and bool(stores.journal.attempts(run.run_id, step))


def _step_in_work(stores: Stores) -> Step | None:
    """None before the run is admitted, and where the disk lets nobody read."""
    with suppress(LunaError):
        run = stores.journal.open_run(LINEAGE)
        return None if run is None else run.next_step
    return None


def _gone_on(
    disk: Disk, home: Home, request: GenerationRequest, turn: Turn, stays: bool
) -> tuple[Turn, list[Told]]:  # fmt: skip
    """Mend the disk and ask again until the run has ended, in the process that is there or in another."""
    if not stays:
        turn.end()
    disk.mend()
    told: list[Told] = []
    while len(told) < _MOST_RESUMES and (not told or told[-1].state not in ("done", "failed")):
        if stays and not told:
            turn.go()
        else:
            turn.end()
            turn = Turn(home, request)
        told.append(turn.told())
    return turn, told


def _outcome(
    fault: Fault, hit: str, told: Sequence[Told], home: Home, witnessed: Accepted, seconds: float
) -> Outcome:  # fmt: skip
    reasons = tuple(one.reason for one in told if one.state != "done")
    silent = [f"{one.state} without a sentence: {one.reason!r}" for one in told if one.state != "done"
              and (unspoken(one.reason) or one.state == "crashed")]  # fmt: skip
    if told[-1].state not in ("done", "failed"):
        silent.append(f"no end after {len(told) - 1} resumes")
    promised = {one.gen_id for one in told if one.gen_id is not None}
    found = examine(home, witnessed)
    there = accepted(home) if not found.unclean else {}
    lost = (*found.lost, *(f"G{gen} was told and is not there" for gen in promised - set(there) if there))
    ended = {"done": "accepted" if promised else "rejected"}.get(told[-1].state, told[-1].state)
    return Outcome(
        fault.number, fault.kind, hit, ended, reasons, len(told) - 1, round(seconds, 2), tuple(lost), found.twice,
        found.unclean, tuple(silent),
    )  # fmt: skip
