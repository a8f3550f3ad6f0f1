"""A whole tuning: the same number of trials for each router, in the workers of `run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage

from bench.datasets import Datasets
from bench.environment import code_version
from bench.execute.desk import Desk
from bench.execute.devices import slots
from bench.execute.events import Begun, Listener, Task
from bench.execute.interrupts import Interrupts
from bench.execute.jobs import TrialJob
from bench.execute.rehearsing import refuse_untrainable
from bench.execute.schedule import Schedule
from bench.execute.workplace import prepared_machine
from bench.fingerprint import Fingerprints
from bench.plan import Planned
from bench.presets import Preset
from bench.record import Rows
from bench.reuse import Decision, Reuse
from bench.run import How, crew_of, listener, run_row
from bench.tally import Tally
from bench.tune.asked import refuse_other, request_of
from bench.tune.contender import Contender, contenders
from bench.tune.search import Search
from bench.tune.storage import open_tuning
from bench.tune.tuner import Tuner
from results import Store
from results.liveness import alive
from routers.errors import BenchError


@dataclass(frozen=True)
class Tuning:
    """What a user asked for.

    Attributes:
        study: the name of the tuning.
        preset: with all overrides applied; its `tune` says how many trials, and where they search.
        seed: of all draws.
        fixed: paths that a user has set; they are not searched.
    """

    study: str
    preset: Preset
    seed: int = 0
    fixed: frozenset[str] = frozenset()

    def record(self) -> dict[str, Any]:
        """As plain data, for the study's row."""
        return {"tuning": {"seed": self.seed}, "preset": self.preset.model_dump(mode="json")}


def tune(
    tuning: Tuning, store: Store, home: Path, datasets: Datasets, tell: Listener, how: How
) -> Tally:
    """Do what is not done yet of a tuning.

    Raises:
        RequestError: something cannot be tuned or trained as asked for.
        BenchError: another process works on this tuning.
        KeyboardInterrupt, StoreError: as of `bench.run.run`.
    """
    machine_id, code_id = store.machine(prepared_machine()), store.code_version(code_version())
    places, fingerprints, tally = slots(how.jobs, how.devices), Fingerprints(), Tally()
    asked = contenders(tuning.preset, tuning.seed, tuning.fixed)
    untuned = [contender.planned({}, datasets, fingerprints) for contender in asked]
    with open_tuning(store.engine) as storage:
        searches = _searches(tuning, asked, untuned, storage)
        _refuse_second(tuning.study, store)
        study = store.study(tuning.study, tuning.record())
        with Interrupts() as interrupts, run_row(tuning.study, store, how, len(places)) as run_id:
            _refuse_second(tuning.study, store, run_id)
            rows, reuse = Rows({}, {}), Reuse(store, home, machine_id)
            listen = listener(tally, tell)
            limit = tuning.preset.tune.trials
            tuner = Tuner(asked, searches, limit, store, home, datasets, reuse, study, rows, listen)
            listen(Begun(tuner.left, tuner.ended, layers=0, jobs=len(places)))
            if first := tuner.first():
                crew = crew_of(how, places, store, home, datasets, machine_id, code_id)
                refuse_untrainable(_rehearsals(untuned), crew.stage)
                desk = Desk(store, home, reuse, rows, run_id, machine_id, code_id, {})
                schedule = Schedule(first, desk, listen, interrupts, tuner)
                tally.left = schedule.run(crew.hands(schedule.hear, interrupts.asked))
    return tally


def _searches(
    tuning: Tuning,
    contenders: Sequence[Contender],
    untuned: Sequence[Planned],
    storage: RDBStorage,
) -> dict[str, Search]:
    """The search of each router.

    Raises:
        RequestError: one was begun otherwise.
    """
    pruner, searches = tuning.preset.tune.pruner, {}
    for each, planned in zip(contenders, untuned, strict=True):
        search = Search(storage, tuning.study, each, pruner)
        now = request_of(planned.fingerprint, each.space, pruner)
        refuse_other(tuning.study, each.router, planned.fingerprint, now, search.asked(now))
        searches[each.router] = search
    return searches


def _rehearsals(untuned: Sequence[Planned]) -> list[TrialJob]:
    """Each router's training with nothing tuned: what is wrong with a draw costs its trial."""
    return [
        TrialJob(
            planned,
            Decision(True, "rehearsed"),
            Task(planned.label, planned.spec.seed, number, len(untuned)),
        )
        for number, planned in enumerate(untuned, 1)
    ]


def _refuse_second(study: str, store: Store, run_id: int | None = None) -> None:
    """Of two that begin at once, the one that was written down first goes on.

    Args:
        run_id: this one's; None before it is written down.
    """
    for run in store.runs(study):
        if (run_id is None or run.id < run_id) and alive(run):
            raise BenchError(
                f"{study} is tuned already by process {run.pid} on {run.node}: {run.command}"
            )
