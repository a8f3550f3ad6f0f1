"""A study from the database: its frames, and the queries that tables and figures share."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from report import state_of
from report.claims import Claim
from report.conditions import (
    DENSE,
    Entry,
    System,
    Systems,
    closest,
    displays,
    experts_label,
    fullest,
)
from report.style import KNOWN, RouterStyle, router_styles
from results import ArrayRecord, Store, StudyRecord, frames
from results.conditions import Condition
from results.statistics.interim import planned_analyses
from results.statistics.means import ALPHA

_ROUTED = {"balance", "editing", "entropy", "pruning", "specialization", "traces"}
BUILT_IN = _ROUTED | {"accuracy", "scaling", "throughput"}
"""The suites with tables and figures of their own; others get those of `generic`."""
FAMILIES = ("baseline", "null", "token_choice", "expert_choice", "soft")


@dataclass(frozen=True, eq=False)
class StudyData:
    """Everything that a report shows, as frames (for the columns, see `results.frames`)."""

    record: StudyRecord
    trials: pd.DataFrame
    measurements: pd.DataFrame
    metrics: pd.DataFrame
    arrays: dict[Entry, list[ArrayRecord]]
    components: pd.DataFrame
    router_sources: dict[str, str]
    """The file of the router that each trial was made with, by fingerprint."""
    state: str
    usual_experts: str | None
    claims: tuple[Claim, ...] = ()
    """The user's own claims."""

    @property
    def name(self) -> str:
        return self.record.name

    @cached_property
    def families(self) -> dict[str, str]:
        """The family of every router that has a card in the database."""
        cards = self.components[self.components["kind"] == "router"]
        return dict(zip(cards["name"], cards["family"].fillna("other"), strict=True))

    @cached_property
    def systems(self) -> list[System]:
        """The study's systems: baselines first, then by family, in each the known ones in order."""
        families = {family: number for number, family in enumerate(FAMILIES)}
        known = {System(router): number for number, router in enumerate(KNOWN)}

        def place(system: System) -> tuple[int, str, int, str]:
            family = self.families.get(system.router, "other")
            rank = families.get(family, len(families))
            return rank, family, known.get(system, len(known)), system.label

        return sorted({*self.trials["system"], *self.metrics["system"]}, key=place)

    @cached_property
    def styles(self) -> dict[System, RouterStyle]:
        """The style of each system, in the order of `systems`."""
        chosen = router_styles([system.key for system in self.systems])
        return {system: chosen[system.key] for system in self.systems}

    def style(self, entry: Entry | None) -> RouterStyle | None:
        """Return the style of an entry, or None for an A/A replicate, which no figure shows."""
        return None if entry is None or entry.aa_replicate else self.styles.get(entry.system)

    @cached_property
    def entries(self) -> list[Entry]:
        """Every system under every condition requested for it, trained or not, in order."""
        shown = {entry for entry in self.trials["entry"] if not entry.aa_replicate}
        return sorted(shown, key=lambda e: (e.order, self.systems.index(e.system)))

    @cached_property
    def conditions(self) -> list[Condition]:
        """The conditions to show separately.

        A router without a swept setting belongs to every condition of the others.
        """
        return fullest(self.entries)

    @cached_property
    def changed(self) -> dict[str, dict[Entry, set[str]]]:
        """By suite, the entries that it measured, each with the parts of the code changed since."""
        by_suite: dict[str, dict[Entry, set[str]]] = defaultdict(dict)
        by_entry = self.metrics.groupby(["suite", "entry"], sort=False)["changed"].unique()
        for (suite, entry), parts in by_entry.items():
            by_suite[suite][entry] = set(parts) - {None}
        return by_suite

    def entry(self, system: System, condition: Condition) -> Entry | None:
        """Return the entry of a system that belongs to a condition."""
        return closest(self.entries, system, condition)

    def under(self, condition: Condition) -> list[Entry]:
        """Return the entry of each system that belongs to a condition, in order."""
        own = (self.entry(system, condition) for system in self.systems)
        return [entry for entry in own if entry is not None]

    def finished(self, entry: Entry) -> int:
        """Return the number of an entry's finished seeds."""
        return int((self.trials_of(entry)["status"] == "done").sum())

    @cached_property
    def steps(self) -> dict[Entry, float]:
        """The mean number of optimiser steps of each entry's finished trials."""
        done = self.trials[self.trials["status"] == "done"].dropna(subset="steps")
        return done.groupby("entry", sort=False)["steps"].mean().to_dict()

    def trials_of(self, entry: Entry) -> pd.DataFrame:
        """Return the trials of an entry, one row per seed."""
        return self._by_entry.get(entry, self.trials.iloc[:0])

    def behind(self, entry: Entry | None, seeds: Iterable[int]) -> tuple[str, ...]:
        """Return the fingerprints of an entry's trials with these seeds, in the seeds' order."""
        by_seed = self._fingerprints.get(entry, {})
        return tuple(by_seed[seed] for seed in seeds if seed in by_seed)

    def final(
        self, metric: str, entry: Entry | None, layer: int | None = None, **where: Any
    ) -> pd.Series:
        """Return a metric at the end of training by seed, of the whole network or of one layer.

        Empty if it was not measured. `where` selects by the keys that the suite gave the number.
        """
        by_seed: dict[int, float] = {}
        if entry is not None:
            for place, seed, value in self._finals[self.suite_of.get(metric), metric, entry, layer]:
                if where.items() <= place.items():
                    by_seed[seed] = value
        return pd.Series(by_seed, dtype=float).sort_index()

    def is_constant(self, metric: str, entry: Entry) -> bool:
        """Tell whether a suite declares a metric constant by construction for an entry."""
        return (metric, entry) in self._constants

    def rows(self, metric: str, entry: Entry) -> pd.DataFrame:
        """Return all rows of a metric for an entry."""
        return self._by_metric.get((metric, entry), self.metrics.iloc[:0])

    def skipped(self, suite: str, entry: Entry) -> str | None:
        """Return why a suite skipped an entry, or None if it measured it or never ran."""
        reasons = [error for status, error in self._outcomes[suite, entry] if status == "skipped"]
        return str(reasons[0]) if reasons else None

    def was_measured(self, suite: str | None, entry: Entry) -> bool:
        """Tell whether a suite has measured an entry or found nothing to measure in it."""
        return any(status in ("done", "skipped") for status, _ in self._outcomes[suite, entry])

    def array(self, name: str, entry: Entry, **where: Any) -> list[ArrayRecord]:
        """Return an entry's arrays of this name at the end of training, by layer, then by seed."""
        records = [
            record
            for record in self.arrays.get(entry, ())
            if record.name == name
            and record.step is None
            and record.split in (None, "test")
            and all(record.where.get(key) == value for key, value in where.items())
        ]
        return sorted(records, key=lambda record: (record.layer or 0, record.seed or 0))

    def is_baseline(self, system: System) -> bool:
        """Tell whether a system is a reference to beat: a null, or a model without MoE."""
        family = self.families.get(system.router)
        return family in ("baseline", "null") or system.router in (DENSE, "dense_params")

    @cached_property
    def suite_of(self) -> dict[str, str]:
        """The suite of each metric, by name; of several suites, a built-in one is preferred."""
        pairs = set(zip(self.metrics["suite"], self.metrics["metric"], strict=True))
        last = sorted(pairs, key=lambda pair: (pair[0] in BUILT_IN, pair))
        return {metric: suite for suite, metric in last}

    @property
    def compute(self) -> dict[str, Any]:
        """The requested compute match: what is equal between routers, and how closely."""
        return self.record.request.get("preset", {}).get("compute", {})

    @property
    def sequential(self) -> dict[str, Any]:
        """The request to add seeds until the differences are resolved; empty if there was none."""
        return self.record.request.get("sequential") or {}

    @property
    def planned_analyses(self) -> int:
        """The number of planned interim analyses; 1 if the number of seeds was fixed."""
        return planned_analyses(self.record.request)

    @property
    def smallest_of_interest(self) -> float | None:
        """The smallest difference of interest, as a share; None if the seeds were fixed."""
        return self.sequential["resolve"] / 100 if self.sequential else None

    @property
    def confidence(self) -> float:
        """The confidence of each interval, so that 95 % holds over all analyses (Bonferroni)."""
        return 1 - ALPHA / self.planned_analyses

    @cached_property
    def _fingerprints(self) -> dict[Entry | None, dict[int, str]]:
        """The fingerprint of each trial, by entry and seed."""
        by_entry = self._by_entry.items()
        return {entry: dict(zip(own["seed"], own["trial"], strict=True)) for entry, own in by_entry}

    @cached_property
    def _finals(
        self,
    ) -> dict[tuple[str | None, str, Entry, int | None], list[tuple[dict[str, Any], int, float]]]:
        """`where`, seed and value at the end of training, by suite, metric, entry and layer."""
        rows = self.metrics.dropna(subset=["seed", "value"])
        rows = rows[rows["step"].isna() & (rows["split"].isna() | (rows["split"] == "test"))]
        by_place = defaultdict(list)
        for row in rows.itertuples():
            layer = None if pd.isna(row.layer) else int(row.layer)
            place = (row.suite, row.metric, row.entry, layer)
            by_place[place].append((row.where, int(row.seed), float(row.value)))
        return by_place

    @cached_property
    def _by_metric(self) -> dict[Any, pd.DataFrame]:
        """The rows of each metric and entry, as measured by the metric's own suite."""
        owners = self.metrics["metric"].map(self.suite_of)
        return _grouped(self.metrics[owners == self.metrics["suite"]], ["metric", "entry"])

    @cached_property
    def _constants(self) -> set[tuple[str, Entry]]:
        places = {key: rows["where"] for key, rows in self._by_metric.items()}
        return {key for key, own in places.items() if any(each.get("constant") for each in own)}

    @cached_property
    def _outcomes(self) -> dict[tuple[str | None, Entry], list[tuple[str, Any]]]:
        """The status and error of each measurement, by suite and entry."""
        outcomes = defaultdict(list)
        for row in self.measurements.itertuples():
            outcomes[row.suite, row.entry].append((row.status, row.error))
        return outcomes

    @cached_property
    def _by_entry(self) -> dict[Any, pd.DataFrame]:
        return _grouped(self.trials, "entry")


def _grouped(rows: pd.DataFrame, by: str | list[str]) -> dict[Any, pd.DataFrame]:
    return dict(iter(rows.groupby(by, sort=False)))


def load_study(store: Store, name: str | None = None, claims: tuple[Claim, ...] = ()) -> StudyData:
    """Return a study by name, or the most recently requested one.

    Raises:
        StoreError: there is no such study, or none at all; the message suggests the nearest name.
    """
    record = store.find_study(name)
    trials = frames.trials_frame(store, record.name)
    measurements = frames.measurements_frame(store, record.name)
    components = frames.components_frame(store)
    # Deduplicated in order: of experts that are equally common, the first count as the usual ones.
    entries = dict.fromkeys(Systems().name_rows(trials)["entry"])
    systems = replace(Systems.of(entries), displays=displays(components))
    # If a number was measured with several options of a suite, the newest counts; a timing of a
    # bare layer is a number of its machine.
    number = ["suite", "trial", "place", "metric", "layer", "step", "split", "where"]
    metrics = frames.metrics_frame(store, record.name).sort_values(["at", "measurement"])
    metrics["place"] = metrics["machine"].where(metrics["attempt"].isna(), "")
    metrics = systems.name_rows(metrics.drop_duplicates(number, keep="last").drop(columns="place"))
    return StudyData(
        record=record,
        trials=systems.name_rows(trials),
        measurements=systems.name_rows(measurements),
        metrics=metrics.assign(where=[json.loads(text) for text in metrics["where"]]),
        arrays=systems.name_arrays(frames.arrays_of(store, record.name)),
        components=components,
        router_sources=frames.router_sources(store, record.name),
        state=state_of(record.request, trials, measurements),
        usual_experts=experts_label(*systems.usual) if systems.usual else None,
        claims=claims,
    )
