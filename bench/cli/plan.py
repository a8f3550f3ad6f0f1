"""The output of `plan`: what each training takes, what is reused and why, and when it finishes."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import inf
from typing import Any

from rich.console import Console

from bench.cli.context import Place
from bench.cli.display import add_grouped, clock, count, duration, flops, print_table, size, table
from bench.compute import ComputeUsed, Estimate, estimate
from bench.config import TrialSpec
from bench.data import Datasets, load_with_shape
from bench.execute import Job, jobs_of, most_ranks, prepared_machine, slots
from bench.plan import (
    Decision,
    Plan,
    Request,
    Reuse,
    condition_of,
    labels,
    make_plan,
    solved_specs,
    trial_specs,
)
from results.conditions import label_of
from results.forecasts import Pace, Seen, Work, forecast, read_seen
from results.settings import place_of
from results.text import counted
from routers.errors import RequestError


@dataclass(frozen=True)
class Row:
    """The trials that differ only in the seed.

    Attributes:
        label: the router, or its A/A replicate, then what distinguishes the trials from others.
        own: the settings that were found for these trials alone, by path.
    """

    router: str
    label: str
    own: dict[str, Any]
    takes: Estimate
    disk_bytes: int

    @property
    def flops(self) -> float | None:
        """FLOPs of one training; None if its budget is in seconds, which decide its steps."""
        budget = self.takes.budget
        return None if budget.steps is None else budget.steps * budget.own.flops


def print_plan(
    request: Request, place: Place, workers: int | None = None, wanted: Sequence[str] = ()
) -> None:
    """Print the plan of a request; nothing is written.

    Args:
        workers, wanted: their number and devices, as `slots` takes them.
    """
    datasets = Datasets()
    asked = trial_specs(request.preset)
    if any(load_with_shape(spec.data, datasets)[1] is None for spec in asked):
        specs = solved_specs(request.preset, datasets)
        _print_trainings(request, _rows_of(specs, datasets), len(specs), {})
        names = ", ".join(sorted({spec.data.name for spec in specs}))
        print(f"The data ({names}) is not here: what could be reused is not known,")
        print("nor the finishing time.")
        return
    plan = make_plan(request, datasets)
    jobs, seen = _jobs(plan, place)
    rows = _rows_of([planned.spec for planned in plan.trials], datasets)
    works, pace, seconds = [], Pace(Seen(), seen), {}
    for job in jobs:
        condition = condition_of(job.planned.spec)
        counted_flops = rows[condition].flops if condition in rows else None
        work = replace(job.work, flops=counted_flops)
        if not job.idle:
            works.append(work)
            if not work.trained:
                seconds[condition] = pace.training(work)
    if rows:
        _print_trainings(request, rows, len(plan.trials), seconds)
    _print_decisions(jobs)
    ranks = most_ranks(planned.spec for planned in plan.trials)
    try:
        places = slots(workers, wanted, ranks)
    except RequestError as error:
        if wanted:
            raise
        # A plan can be made where it is not run, as on the login node of a cluster.
        print(textwrap.fill(f"finishing time: not known here, since {error}", 80))
    else:
        _print_finishing(works, pace, places)
    if request.sequential is not None:
        seeds = ", ".join(map(str, request.sequential.seeds))
        print("All this at most: with --seeds auto it may be over at each interim analysis, at")
        print(f"{seeds} seeds.")


def _rows_of(specs: Sequence[TrialSpec], datasets: Datasets) -> dict[str, Row]:
    """Return a row for each condition, while showing which one is being counted."""
    once = {
        condition_of(spec): (label, spec) for label, spec in zip(labels(specs), specs, strict=True)
    }
    rows = {}
    with Console(stderr=True).status("") as status:
        for condition, (label, spec) in once.items():
            status.update(f"counting {label}")
            data = [load_with_shape(of.data, datasets)[0] for of in (spec, spec.parent) if of]
            takes = estimate(spec, *data)
            disk = takes.checkpoint_bytes * max(spec.train.snapshots, 1)
            own = _own_settings(spec)
            rows[condition] = Row(label_of(spec.model_dump()), label, own, takes, disk)
    return rows


def _own_settings(spec: TrialSpec) -> dict[str, Any]:
    """Return the numbers that tuning, or matching compute, has set for this trial alone."""
    own = {}
    for path in spec.found:
        value: Any = spec.model_dump(mode="json")
        for name in place_of(path):
            value = value.get(name, {})
        if isinstance(value, float | int):
            own[path] = value
    return own


def _print_trainings(
    request: Request, rows: Mapping[str, Row], trials: int, seconds: Mapping[str, float | None]
) -> None:
    """Print one row per condition, and the totals.

    Args:
        trials: number of trials.
        seconds: duration of one training by condition, if it is known.
    """
    seeds, model = request.preset.seeds, request.preset.model
    asked = f"{counted(trials, 'trial')}, {counted(seeds, 'seed')}"
    options = ", ".join(f"{name}={value}" for name, value in model.options.items())
    of_options = f" ({options})" if options else ""
    print(f"Study {request.study}, preset {request.preset.name}: {asked}")
    print(textwrap.fill(f"Model: {model.name}{of_options}", 80) + "\n")
    right = "steps params FLOPs memory disk time"
    made = table("router", *right.split(), right=right)
    made.padding = (0, 0)  # seven columns in 80
    cells = []
    for condition, row in rows.items():
        budget, takes = row.takes.budget, seconds.get(condition)
        numbers = [
            f"{budget.amount:g} s" if budget.steps is None else f"{budget.steps:,}",
            count(row.takes.parameters),
            "–" if row.flops is None else flops(row.flops),
            size(row.takes.training_bytes),
            size(row.disk_bytes),
            "–" if takes is None else _short(takes),
        ]
        cells.append((row.router, row.label.removeprefix(row.router).strip(), numbers))
    add_grouped(made, cells)
    print_table(made)
    each = [row.flops for row in rows.values()]
    total = flops(sum(filter(None, each)) * seeds) if None not in each else "unknown"
    print(
        f"\nEach row is one training. All {trials}: {total} FLOPs and "
        f"{size(sum(row.disk_bytes for row in rows.values()) * seeds)} of disk;\nthe largest needs "
        f"{size(max(row.takes.training_bytes for row in rows.values()))} of memory.\n"
    )
    for row in rows.values():
        parts = [
            f"{name} {value:.4g}" for name, value in {**row.own, **row.takes.expert_stats}.items()
        ]
        budget = row.takes.budget
        if budget.steps is not None:
            used = ComputeUsed(budget.steps * budget.own.flops, budget.steps, 0.0)
            if not budget.met_by(used):
                parts.append(f"misses its budget by {budget.error(used):+.1%}")
        if parts:
            print(f"{row.label}: {', '.join(parts)}")


def _short(seconds: float) -> str:
    """Return seconds in at most three digits and a unit: `8.3 s`, `83 s`, `8.3 min`, `83 h`."""
    units = ((100, 1, "s"), (6000, 60, "min"), (inf, 3600, "h"))
    scale, unit = next((scale, unit) for limit, scale, unit in units if seconds < limit)
    amount = seconds / scale
    return f"{amount:.1f} {unit}" if amount < 9.95 else f"{amount:.0f} {unit}"


def _jobs(plan: Plan, place: Place) -> tuple[list[Job], Seen]:
    """Return what is left to do in a plan, and what this machine has trained and measured."""
    if not place.has_store():
        new = [Decision(True, "new", planned.suites) for planned in plan.trials]
        return list(jobs_of(plan, new, [planned.suites for planned in plan.layers])), Seen()
    with place.store() as store:
        machine = prepared_machine()
        reuse = Reuse(store, place.home, store.machine_id(machine))
        jobs = jobs_of(plan, reuse.trials(plan.trials), reuse.layers(plan.layers))
        return list(jobs), read_seen(store, machine)[1]


def _print_finishing(works: Sequence[Work], pace: Pace, places: Sequence[str]) -> None:
    """Print when all would be done if it started now, and how the time divides.

    Args:
        places: the device of each worker.
    """
    if not works:
        print("finishing time: nothing is left to do")
        return
    ends = forecast(works, pace, len(places), len(set(places)))
    suites = [(work, suite) for work in works for suite in work.suites]
    unknown = dict.fromkeys(suite for work, suite in suites if pace.measuring(work, suite) is None)
    if ends is None:
        print(
            "finishing time: unknown, no trial has run on this machine yet;\n"
            "`run` shows it after its first trials"
        )
        return
    if unknown and not ends.whole:
        print(
            f"finishing time: unknown, {', '.join(unknown)} never ran on this machine;\n"
            "`run` shows it after its first measurements"
        )
        return
    now = datetime.now()
    print(
        f"finishing time: about {duration(ends.whole)} with {counted(len(places), 'worker')} "
        f"({clock(now + timedelta(seconds=ends.whole), now)}), of which\n"
        f"training {duration(ends.training)}, measuring {duration(ends.measuring)}, "
        f"timings {duration(ends.timings)}"
    )
    if unknown:
        print(f"without {', '.join(unknown)}: not measured on this machine yet")


def _print_decisions(jobs: Sequence[Job]) -> None:
    """Print how many trials are trained or reused, by reason, and what is measured."""
    trials = [job.decision for job in jobs if not job.is_layer]
    for train, verb in ((True, "to train"), (False, "reused")):
        reasons = Counter(decision.reason for decision in trials if decision.train is train)
        for reason, number in reasons.most_common():
            print(f"{number:>5} {verb}: {reason}")
    due = Counter(suite.name for job in jobs for suite in job.due)
    measurements = ", ".join(f"{suite} {number}" for suite, number in due.items())
    line = f"{due.total():>5} to measure{': ' * bool(due)}{measurements}"
    print(textwrap.fill(line, 80, subsequent_indent=" " * 6))
