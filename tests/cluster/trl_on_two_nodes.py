"""Trains three times with the trl engine on the one of two nodes that has a GPU: `python -m ... FOLDER`.

A program of its own, since a test process knows one Ray. The GPU is a logical one: its trainer computes on the CPU.
Prints what it saw as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

RUNS = 3


def main(folder: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from cluster import trainer_actor
    from cluster.placement import Groups, Placement
    from cluster.settings import Settings
    from cluster.trainer_pool import TrainerSession
    from cluster.workers.follow import Follower
    from tests.trainers.builders import LORA, make_home, make_job, tiny_base

    home = make_home(folder)
    base = tiny_base(home)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    node = made.add_node(num_cpus=2, num_gpus=1)
    ray.init(address=made.address, log_to_driver=False)
    raylets = {own.all_processes["raylet"][0].process.pid: own.node_id for own in (made.head_node, node)}

    class Weighed(trainer_actor.TrainerActor):
        def held(self) -> int:
            """Bytes of all tensors of this process."""
            import gc

            import torch

            gc.collect()
            there = {
                one.untyped_storage().data_ptr(): one.untyped_storage().nbytes()
                for one in gc.get_objects()
                if isinstance(one, torch.Tensor)
            }
            return sum(there.values())

    def start(group: Placement) -> Any:
        return ray.remote(Weighed).options(num_cpus=1, num_gpus=group.gpus, max_concurrency=4).remote(group.name)

    trainer_actor.start_trainer = start
    group = Placement(("logical",), 1)
    seen: list[dict[str, Any]] = []
    session: TrainerSession | None = None
    for run in range(RUNS):
        job = make_job(home, steps=16, run=f"run-{run}", roles=group.roles, engine="trl", threads=1, least_loss=None)
        session = session or TrainerSession({}, Groups((group,)), base, Settings(train=job.train, lora=LORA))
        with looking(raylets) as at_work:
            (outcome,) = session.train({group: job}, Follower(lambda _: None), threading.Event()).values()
        actor = session._trainers[group].actor
        seen.append(
            {
                "engine": outcome.engine.engine,
                "actor": ray._private.state.actors(actor._actor_id.hex())["Address"]["NodeID"],
                "at_work": sorted(set(at_work)),
                "looks": len(at_work),
                "processes": with_torch(raylets),
                "held": ray.get(actor.held.remote()),
            }
        )
    weights = sum(file.stat().st_size for file in base.path.glob("*.safetensors"))
    print(json.dumps({"node": node.node_id, "base": weights, "runs": seen}), flush=True)
    ray.shutdown()
    made.shutdown()


@contextmanager
def looking(raylets: dict[int, str]) -> Iterator[list[str]]:
    """What :func:`with_torch` finds ten times a second until the block ends."""
    found, ended = list[str](), threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            found.extend(with_torch(raylets))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def with_torch(raylets: dict[int, str]) -> list[str]:
    """The node of every process of this cluster that has loaded torch."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            maps = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
        except OSError:  # it has just ended
            continue
        if "libtorch_cpu" in maps:
            found.append(raylets.get(process.ppid(), f"a child of {process.ppid()}"))
    return found


if __name__ == "__main__":
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    main(Path(sys.argv[1]))
