"""A whole tuning: the same number of trials for each router, in the workers of `run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage

from bench.datasets import Datasets
from bench.execute.events import OnEvent, RunSummary
from bench.fingerprint import Fingerprints
from bench.plan import Planned
from bench.presets import Preset
from bench.run import Runner, RunOptions
from bench.tune.asked import refuse_other, request_of
from bench.tune.contender import Contender, contenders
from bench.tune.search import Search
from bench.tune.storage import open_tuning
from bench.tune.tuner import Tuner, refuse_second
from results import Store


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
    tuning: Tuning,
    store: Store,
    home: Path,
    datasets: Datasets,
    on_event: OnEvent,
    options: RunOptions,
) -> RunSummary:
    """Do what is not done yet of a tuning.

    Raises:
        RequestError: something cannot be tuned or trained as asked for.
        BenchError: another process works on this tuning.
        KeyboardInterrupt, StoreError: as of `bench.run.run`.
    """
    runner, fingerprints = Runner(store, home, datasets, on_event, options), Fingerprints()
    asked = contenders(tuning.preset, tuning.seed, tuning.fixed)
    untuned = [contender.planned({}, datasets, fingerprints) for contender in asked]
    with open_tuning(store.engine) as storage:
        searches = _searches(tuning, asked, untuned, storage)
        refuse_second(tuning.study, store)
        tuner = Tuner(
            tuning.study,
            tuning.record(),
            asked,
            untuned,
            searches,
            tuning.preset.tune.trials,
            store,
            home,
            datasets,
            runner.reuse,
            runner.emit,
        )
        return runner.run(tuner)


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
