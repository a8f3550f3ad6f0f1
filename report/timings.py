"""Timings of bare layers and whole models, each of one router on one machine and never pooled."""

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, replace

import pandas as pd

from report.conditions import Entry, closest_layer
from report.study import StudyData
from results.text import counted

PASSES = {"forward": "forward", "train": "forward + backward"}
TIMES = ("_ms", "_ms_p90", "_overhead", "_per_s")
"""Endings of the metrics that a busy machine distorts."""
SETTING = ("scope", "shape", "batch", "tokens", "num_experts", "dim", "hidden", "threads")


@dataclass(frozen=True)
class Setting:
    """A layer or model on one machine. `shape` names a layer's sizes; for a model it is `model`."""

    machine: str
    scope: str
    shape: str
    batch: int
    tokens: int
    num_experts: int
    dim: int
    hidden: int
    threads: int

    @property
    def title(self) -> str:
        return "whole model" if self.scope == "model" else f"layer, shape {self.shape}"

    @property
    def sizes(self) -> str:
        """Batch × tokens × width, and the number of experts."""
        return f"{self.batch} × {self.tokens} × {self.dim}, {counted(self.num_experts, 'expert')}"


@dataclass(frozen=True)
class Timing:
    """All numbers of one router at one setting; `forward_ms` is the median.

    `layer` is the fingerprint of the bare layer that was timed.
    """

    entry: Entry
    setting: Setting
    values: dict[str, float]
    layer: str

    def is_disturbed(self, key: str) -> bool:
        """Tell whether a number is a time that other processes disturbed."""
        of_pass = "train_" if key.startswith("train_") else ""
        return key.endswith(TIMES) and self.values.get(f"{of_pass}disturbed") == 1


def timings(study: StudyData, aa_replicate: int = 0) -> list[Timing]:
    """Return a study's timings, ordered by machine, then setting, then entry.

    Args:
        aa_replicate: 1 for only the second runs of the A/A control, each under the entry that it
            is the control of; 0 leaves them out.
    """
    rows = study.metrics
    rows = rows[(rows["suite"] == "throughput") & (rows["aa_replicate"] == aa_replicate)]
    values: dict[tuple[Setting, Entry], dict[str, float]] = defaultdict(dict)
    layers: dict[tuple[Setting, Entry], str] = {}
    names = machine_names(study)
    for row in rows.itertuples():
        if not row.where.keys() >= set(SETTING):
            continue  # a count of rows or the like was not timed
        setting = Setting(names[row.machine], *(row.where[key] for key in SETTING))
        place = setting, replace(row.entry, aa_replicate=0)
        quantile = row.where.get("quantile", 0.5)
        name = row.metric if quantile == 0.5 else f"{row.metric}_p{round(100 * quantile)}"
        values[place][name], layers[place] = row.value, row.trial
    ordered = sorted(
        values,
        key=lambda pair: (
            *(pair[0].machine, pair[0].scope, pair[0].shape, pair[1].order),
            study.systems.index(pair[1].system),
        ),
    )
    return [Timing(place[1], place[0], values[place], layers[place]) for place in ordered]


def machine_names(study: StudyData) -> dict[Hashable, str]:
    """Return a name for each machine, by its hash; equal names are made distinct."""
    frames = [study.trials, study.measurements]
    machines = pd.concat([frame[["machine", "machine_name"]] for frame in frames])
    machines = machines.dropna().drop_duplicates()
    alike = machines["machine_name"].duplicated(keep=False)
    names = machines["machine_name"].where(
        ~alike, machines["machine_name"] + " " + machines["machine"].str[:6]
    )
    return dict(zip(machines["machine"], names, strict=True))


def representative(timed: list[Timing]) -> Setting | None:
    """Return the layer setting timed for the most routers, for a table with room for just one."""
    layers = [timing.setting for timing in timed if timing.setting.scope == "layer"]
    return max(layers, key=lambda setting: (layers.count(setting), setting.shape), default=None)


def of_entry(timed: list[Timing], setting: Setting | None, entry: Entry) -> Timing | None:
    """Return the timing of an entry at a setting, or None if there is none."""
    by_entry = {timing.entry: timing for timing in timed if timing.setting == setting}
    chosen = closest_layer(by_entry, entry)
    return None if chosen is None else by_entry[chosen]
