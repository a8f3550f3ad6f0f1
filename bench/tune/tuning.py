"""A whole tuning: the same number of trials for each router, in the workers of `run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage

from bench.config import Preset, Pruner
from bench.data import Datasets
from bench.execute import OnEvent, Runner, RunOptions, RunSummary
from bench.plan import Fingerprint, Fingerprints, Planned, differences, selected_routers
from bench.tune.search import Search, open_tuning
from bench.tune.space import Contender, Space, contenders
from bench.tune.tuner import Tuner, refuse_second
from results import Store
from results.store.registration import ComponentRef, TrialRecord
from routers.errors import RequestError


def request_of(fingerprint: Fingerprint, space: Space, pruner: Pruner) -> dict[str, Any]:
    """Return what a search was asked for, as plain data.

    Args:
        fingerprint: of the router's trial with nothing tuned; the seed is in it.
    """
    return {
        "pruner": pruner,
        **{f"range of {path}": distribution_to_json(where) for path, where in space.items()},
        "description": fingerprint.description,
        "parts": [[part.kind, part.name, part.digest] for part in fingerprint.parts],
    }


def refuse_other(
    study: str, router: str, fingerprint: Fingerprint, now: dict[str, Any], then: dict[str, Any]
) -> None:
    """Refuse to go on with a search that was asked for otherwise.

    Raises:
        RequestError: it says what differs.
    """
    if now == then:
        return
    changes = [
        f"{name} is {now.get(name, 'unset')}, was {then.get(name, 'unset')}"
        for name in {**then, **now}
        if name not in ("description", "parts") and now.get(name) != then.get(name)
    ]
    parts = tuple(ComponentRef(*part) for part in then["parts"])
    changes += differences(fingerprint, TrialRecord(0, "", then["description"], parts))
    raise RequestError(
        f"tuning {study!r} of {router} was begun otherwise: {'; '.join(changes)}; give --study "
        "another name"
    )


def tuning_of(preset: str) -> str:
    """Return the name of a preset's tuning, unless it is named otherwise."""
    return f"{preset}-tuning"


@dataclass(frozen=True)
class Tuning:
    """A tuning as a user asked for it.

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
        """Return the request as plain data, for the study's row."""
        trials = len(selected_routers(self.preset)) * self.preset.tune.trials
        tuning = {"seed": self.seed, "trials": trials}
        return {"tuning": tuning, "preset": self.preset.model_dump(mode="json")}


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
        KeyboardInterrupt, StoreError: as of `bench.execute.runner.run_plan`.
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
    """Return the search of each router.

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
