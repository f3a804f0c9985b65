"""What is told to Ray's metrics, which every node offers to Prometheus as `ray_<name>`; here what the engine tells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ray.util.metrics import Gauge


@dataclass(frozen=True)
class Measure:
    """A gauge: it keeps its last value for each set of tags."""

    name: str
    """Begins with `luna_`; Prometheus sees `ray_luna_...`."""
    told: str
    """What it is, with its unit."""
    tags: tuple[str, ...] = ()

    def at(self, value: float, *tags: object) -> Sample:
        """A value of it, tags in their order."""
        return Sample(self, float(value), tuple(map(str, tags)))


class Sample(NamedTuple):
    """A value to tell."""

    measure: Measure
    value: float
    tags: tuple[str, ...]


IN_WORK = Measure("luna_requests_in_work", "Requests that the engine replica works on, waiting ones included", ("pid",))
SERVED = Measure("luna_served_generation", "Number of the generation that luna-<role> means", ("lineage", "pid"))
LOAD = Measure("luna_load_seconds", "Time that the last loading of a generation took", ("pid",))
SWAP = Measure("luna_swap_seconds", "Time in which luna-<role> came to mean the generation that was loaded", ("pid",))

ENGINE: tuple[Measure, ...] = (IN_WORK, SERVED, LOAD, SWAP)


def tell(samples: Iterable[Sample]) -> None:
    """Give Ray the values; outside a process of Ray's nothing happens."""
    import ray

    if ray.is_initialized():
        for measure, value, tags in samples:
            _gauge(measure).set(value, dict(zip(measure.tags, tags, strict=True)))


@cache
def _gauge(measure: Measure) -> Gauge:
    from ray.util.metrics import Gauge

    return Gauge(measure.name, measure.told, measure.tags)
