"""What each training of a plan takes, as a table."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from bench.cli.words import add_grouped, count, flops, show, size, table
from bench.compute.budget import Budget, Spent
from bench.compute.estimate import Estimate, estimate
from bench.config import ModelConfig, TrialSpec
from bench.datasets import Datasets
from bench.expected import load_or_expect
from bench.plan import Request, labels
from bench.specs import condition_of
from results.conditions import router_of
from results.settings import place_of
from results.text import counted


@dataclass(frozen=True)
class Row:
    """The trials that differ in the seed alone; `condition` as `condition_of` tells it.

    `label` begins with the router, or its twin; `found` are the settings that were found for them
    alone, by path.
    """

    router: str
    label: str
    condition: str
    found: dict[str, Any]
    takes: Estimate
    disk_bytes: int

    @property
    def flops(self) -> float | None:
        """Of one training; None where seconds decide its steps."""
        budget = self.takes.budget
        return None if budget.steps is None else budget.steps * budget.own.flops

    @property
    def settings(self) -> str:
        """What sets them apart from the router's others."""
        return self.label.removeprefix(self.router).strip()


def rows_of(
    specs: Sequence[TrialSpec], datasets: Datasets, tell: Callable[[str], None]
) -> list[Row]:
    """One for each condition; `tell` is told which is being counted."""
    once = {
        condition_of(spec): (label, spec) for label, spec in zip(labels(specs), specs, strict=True)
    }
    rows = []
    for condition, (label, spec) in once.items():
        tell(f"counting {label}")
        takes = _takes(spec, datasets)
        files = max(spec.train.snapshots, 1)
        router, disk = router_of(spec.model_dump()), takes.checkpoint_bytes * files
        rows.append(Row(router, label, condition, _found(spec), takes, disk))
    return rows


def _takes(spec: TrialSpec, datasets: Datasets) -> Estimate:
    own, *others = [load_or_expect(of.data, datasets)[0] for of in (spec, spec.parent) if of]
    return estimate(spec, own, *others)


def _model(model: ModelConfig) -> str:
    """A model by its name, with the options that make another model of it."""
    options = ", ".join(f"{name}={value}" for name, value in model.options.items())
    return f"{model.name} ({options})" if options else model.name


def print_trainings(
    request: Request, rows: Sequence[Row], trials: int, seconds: Mapping[str, float | None]
) -> None:
    """Print one row a condition, and the sums.

    Args:
        trials: their number.
        seconds: of one training by condition, where they are known.
    """
    seeds = request.preset.seeds
    asked = f"{counted(trials, 'trial')}, {counted(seeds, 'seed')}"
    print(f"Study {request.study}, preset {request.preset.name}: {asked}")
    print(textwrap.fill(f"Model: {_model(request.preset.model)}", 80) + "\n")
    right = "steps params FLOPs memory disk time"
    made = table("router", *right.split(), right=right)
    made.padding = (0, 0)  # seven columns in 80
    add_grouped(
        made,
        ((row.router, row.settings, _cells(row, seconds.get(row.condition))) for row in rows),
    )
    show(made)
    spent = [row.flops for row in rows]
    told = flops(sum(filter(None, spent)) * seeds) if None not in spent else "unknown"
    print(
        f"\nOf one training each. All {trials}: {told} FLOPs and "
        f"{size(sum(row.disk_bytes for row in rows) * seeds)} of disk;\nthe largest needs "
        f"{size(max(row.takes.training_bytes for row in rows))} of memory.\n"
    )
    for row in rows:
        numbers = {**row.found, **row.takes.expert_facts}
        parts = [f"{name} {value:.4g}" for name, value in numbers.items()]
        parts += _missed(row.takes.budget)
        if parts:
            print(f"{row.label}: {', '.join(parts)}")


def _cells(row: Row, seconds: float | None) -> list[str]:
    budget = row.takes.budget
    return [
        f"{budget.amount:g} s" if budget.steps is None else f"{budget.steps:,}",
        count(row.takes.parameters),
        "–" if row.flops is None else flops(row.flops),
        size(row.takes.training_bytes),
        size(row.disk_bytes),
        "–" if seconds is None else _short(seconds),
    ]


def _found(spec: TrialSpec) -> dict[str, Any]:
    """Settings that were found for a trial alone, by tuning or by matching compute: numbers."""
    found = {}
    for path in spec.found:
        value: Any = spec.model_dump(mode="json")
        for name in place_of(path):
            value = value.get(name, {})
        if isinstance(value, float | int):
            found[path] = value
    return found


def _missed(budget: Budget) -> list[str]:
    """That the trial will miss its budget, and by how much, where it will."""
    if budget.steps is None:
        return []
    spent = Spent(budget.steps * budget.own.flops, budget.steps, 0.0)
    return [] if budget.met_by(spent) else [f"misses its budget by {budget.error(spent):+.1%}"]


def _short(seconds: float) -> str:
    """`8.3 s`, `83 s`, `8.3 min`, `83 h`: three columns and a unit, of a table of 80."""
    units = ((100, 1, "s"), (6000, 60, "min"), (inf, 3600, "h"))
    scale, unit = next((scale, unit) for limit, scale, unit in units if seconds < limit)
    amount = seconds / scale
    return f"{amount:.1f} {unit}" if amount < 9.95 else f"{amount:.0f} {unit}"
