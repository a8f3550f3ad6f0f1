"""Who rehearses and does the jobs of a run: worker processes, or this process itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from bench.datasets import Datasets
from bench.execute.assignment import Surroundings
from bench.execute.devices import own_device
from bench.execute.hands import Hands, Here, Tell
from bench.execute.locks import Stop
from bench.execute.rehearsing import Stage, apart, here
from bench.execute.workplace import Workplace
from results import Store


class Crew(Protocol):
    """Where rehearsals are held, and hands that tell events and are asked to stop."""

    @property
    def stage(self) -> Stage: ...

    def hands(self, tell: Tell, stop: Stop) -> Hands: ...


@dataclass(frozen=True)
class Apart:
    """Worker processes, each with its device.

    Attributes:
        places: the device of each.
        timeout: seconds for one job; None lets it take what it takes.
    """

    places: tuple[str, ...]
    shared: Surroundings
    timeout: float | None

    @property
    def stage(self) -> Stage:
        return apart(self.shared, len(self.places))

    def hands(self, tell: Tell, stop: Stop) -> Hands:
        from bench.execute.workers import Workers  # with all that a worker needs

        return Workers(self.places, self.shared, self.timeout, tell)


@dataclass(frozen=True)
class InProcess:
    """This process, on one device. Attributes as of `Surroundings`."""

    place: str
    store: Store
    home: Path
    datasets: Datasets
    machine_id: int
    code_id: int
    save_every: float

    @property
    def stage(self) -> Stage:
        return here(self.datasets)

    def hands(self, tell: Tell, stop: Stop) -> Hands:
        device = own_device(self.place)
        ids, told = (self.machine_id, self.code_id), partial(tell, 0)
        work = Workplace(
            self.store, self.home, self.datasets, device, *ids, told, self.save_every, stop
        )
        return Here(self.place, work)
