"""What `plan` prints: what each training takes, what is reused and why, and when all is done."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from rich.console import Console

from bench.cli.place import Place
from bench.cli.trainings import Row, print_trainings, rows_of
from bench.cli.words import clock, duration
from bench.datasets import Datasets
from bench.execute.devices import slots
from bench.execute.jobs import Job, LayerJob, TrialJob, jobs_of
from bench.execute.workplace import prepared_machine
from bench.expected import load_or_expect
from bench.forecast import Pace, Seen, Work, forecast, seen_on
from bench.plan import Plan, Request, make_plan, solved_specs
from bench.reuse import Decision, Reuse
from bench.specs import condition_of, trial_specs
from results.identities import machine_row
from results.text import counted


def print_plan(
    request: Request, place: Place, workers: int | None = None, wanted: Sequence[str] = ()
) -> None:
    """Print the plan of a request; nothing is written.

    Args:
        workers, wanted: their number and devices, as `slots` takes them.
    """
    datasets = Datasets()
    asked = trial_specs(request.preset)
    if any(load_or_expect(spec.data, datasets)[1] is None for spec in asked):
        _print_without_data(request, datasets)
        return
    plan = make_plan(request, datasets)
    jobs, seen = _jobs(plan, place)
    places = slots(workers, wanted)
    with Console(stderr=True).status("") as status:
        rows = rows_of([planned.spec for planned in plan.trials], datasets, status.update)
    pace, works = Pace(Seen(), seen), _works(jobs, rows)
    seconds = {condition: pace.training(work) for condition, work in works if not work.trained}
    if rows:
        print_trainings(request, rows, len(plan.trials), seconds)
    _print_decisions(jobs)
    _print_finishing([work for _, work in works], pace, places)
    if request.sequential is not None:
        told = ", ".join(map(str, request.sequential.seeds))
        print(f"All this at most: with --seeds auto it may be over at each look, at {told} seeds.")


def _print_without_data(request: Request, datasets: Datasets) -> None:
    specs = solved_specs(request.preset, datasets)
    with Console(stderr=True).status("") as status:
        rows = rows_of(specs, datasets, status.update)
    print_trainings(request, rows, len(specs), {})
    names = ", ".join(sorted({spec.data.name for spec in specs}))
    print(f"The data ({names}) is not here: what could be reused is not known,")
    print("nor the finishing time.")


def _jobs(plan: Plan, place: Place) -> tuple[list[Job], Seen]:
    """What is left to do of a plan, and what this machine has trained and measured."""
    if not place.has_store():
        new = [Decision(True, "new", planned.suites) for planned in plan.trials]
        return list(jobs_of(plan, new, [planned.suites for planned in plan.layers])), Seen()
    with place.store() as store:
        machine = prepared_machine()
        reuse = Reuse(store, place.home, machine_row(store, machine))
        jobs = jobs_of(plan, reuse.trials(plan.trials), reuse.layers(plan.layers))
        return list(jobs), seen_on(store, machine)


def _works(jobs: Sequence[Job], rows: Sequence[Row]) -> list[tuple[str, Work]]:
    """What is left of each job, with its condition and the FLOPs that were counted for it."""
    flops = {row.condition: row.flops for row in rows}
    conditions = [condition_of(job.planned.spec) for job in jobs]
    return [
        (condition, replace(job.work, flops=flops.get(condition)))
        for condition, job in zip(conditions, jobs, strict=True)
        if not job.idle
    ]


def _print_finishing(works: Sequence[Work], pace: Pace, places: Sequence[str]) -> None:
    """Print when all is done if it is begun now, and what that is made of.

    Args:
        places: the device of each worker.
    """
    if not works:
        print("finishing time: nothing is left to do")
        return
    ends = forecast(works, pace, len(places), len(set(places)))
    if ends is None:
        print(
            "finishing time: not known, no trial has run on this machine yet;\n"
            "`run` shows it after its first trials"
        )
        return
    now = datetime.now()
    print(
        f"finishing time: about {duration(ends.whole)} with {counted(len(places), 'worker')} "
        f"({clock(now + timedelta(seconds=ends.whole), now)}), of which\n"
        f"training {duration(ends.training)}, measuring {duration(ends.measuring)}, "
        f"timings {duration(ends.timings)}"
    )
    suites = [(work, suite) for work in works for suite in work.suites]
    unknown = dict.fromkeys(suite for work, suite in suites if pace.measuring(work, suite) is None)
    if unknown:
        print(f"without {', '.join(unknown)}: not measured on this machine yet")


def _print_decisions(jobs: Sequence[Job]) -> None:
    """Counts by reason: what is trained, what is reused, what is measured."""
    trials = [job.decision for job in jobs if isinstance(job, TrialJob)]
    for train, verb in ((True, "to train"), (False, "reused")):
        reasons = Counter(decision.reason for decision in trials if decision.train is train)
        for reason, number in reasons.most_common():
            print(f"{number:>5} {verb}: {reason}")
    due = Counter(suite.name for decision in trials for suite in decision.due)
    due.update(suite.name for job in jobs if isinstance(job, LayerJob) for suite in job.due)
    measurements = ", ".join(f"{suite} {number}" for suite, number in due.items())
    told = f"{due.total():>5} to measure{': ' * bool(due)}{measurements}"
    print(textwrap.fill(told, 80, subsequent_indent=" " * 6))
