"""Trains on two nodes of one CPU each, of which one may be lost: `python -m tests.cluster.lose_a_node FOLDER STEP`.

A program of its own, since a test process knows one Ray. Prints what it saw as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

LONG_STEPS: dict[str, Any] = {"batch_size": 32, "threads": 1, "checkpoint_every_steps": 2}
"""Of a training that takes a few seconds, so that a node can be lost in the middle."""


def main(folder: Path, lost_at: int) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from cluster.placement import Placement
    from cluster.settings import Settings
    from cluster.store.reach import Setup
    from cluster.workers.train_group import train_in_group
    from ledger.home import Home
    from ledger.roles import ROLES
    from tests.trainers.builders import LORA, make_job, tiny_base
    from trainers.job import TrioProgress

    home = Home(folder / "home")
    job = make_job(home, steps=8, run=f"lost-at-{lost_at}", **LONG_STEPS)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1)]
    ray.init(address=cluster.address, log_to_driver=False)
    seen: list[TrioProgress] = []

    def note(progress: TrioProgress) -> None:
        seen.append(progress)
        if lost_at and progress.step >= lost_at and nodes:
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    settings = Settings(train=job.train, lora=LORA)
    placement = Placement(ROLES, 0, workers=2)
    outcome = train_in_group(placement, Setup(tiny_base(home), settings), job, note, threading.Event())
    print(
        json.dumps(
            {
                "adapters": {role: result.adapter_sha for role, result in outcome.roles.items()},
                "workers": outcome.engine.workers,
                "nodes_left": len(nodes),
                "losses": [result.loss_end for result in outcome.roles.values()],
                "steps_seen": [progress.step for progress in seen],
            }
        ),
        flush=True,
    )
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    main(Path(sys.argv[1]), int(sys.argv[2]))
