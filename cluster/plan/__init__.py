"""Which roles train on which devices, how many bytes that takes and how many seconds: decided before anything starts.

    wanted.py    what is to be trained: roles, the base's shape, rows, lengths, settings that decide bytes
    shape.py     the sizes of a decoder, from its config.json
    cards.py     what a card is worth by its name: products and bytes a second
    memory.py    bytes of a trainer on a device, term by term
    seconds.py   seconds of a step, term by term
    seating.py   one group of roles on given devices: whether it fits, in how many parts a step, how long it takes
    serving.py   where the engine goes, and what it asks Ray for
    search.py    the fastest way to seat all groups
    decision.py  `plan_run`: the fastest way, or why there is none, by how much, and what would fit
    of_home.py   what a home's settings and data ask for; reads files
    groups.py    how the roles of a run train and the cards of a server that begin now; asks Ray and the cards, all else
                 here is pure

The constants of `memory` and `seconds` name where they were measured. To model a further term, add it to
`memory.Footprint` or `seconds.step_seconds`, and a measured row to `tests/cluster/test_plan_model.py`.
"""

from cluster.plan.decision import CannotRun, plan_run
from cluster.plan.search import Plan
from cluster.plan.shape import BaseShape
from cluster.plan.wanted import RoleRows, ServingShare, Shards, Wanted

__all__ = ["BaseShape", "CannotRun", "Plan", "RoleRows", "ServingShare", "Shards", "Wanted", "plan_run"]
