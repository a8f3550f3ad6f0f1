"""What `plan` prints: what each training takes, what is reused and why, and when all is done."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from bench.cli.finishing import finishing, print_finishing
from bench.cli.place import Place
from bench.cli.trainings import print_trainings, rows_of
from bench.datasets import Datasets
from bench.execute.devices import slots
from bench.execute.jobs import Job, LayerJob, TrialJob, jobs_of
from bench.execute.workplace import prepared_machine
from bench.expected import load_or_expect
from bench.plan import Plan, Request, make_plan, solved_specs
from bench.reuse import Decision, Reuse
from bench.specs import trial_specs
from results.identities import machine_row


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
    jobs = _jobs(plan, place)
    places = slots(workers, wanted)
    with Console(stderr=True).status("") as status:
        rows = rows_of([planned.spec for planned in plan.trials], datasets, status.update)
        memory = max((row.takes.training_bytes for row in rows), default=0)
        ends = finishing(jobs, memory, places, workers != 0, datasets, place.plugins, status.update)
    if rows:
        seconds = {} if isinstance(ends, str) else ends.trainings
        print_trainings(request, rows, len(plan.trials), seconds)
    _print_decisions(jobs)
    print_finishing(ends, len(places))
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


def _jobs(plan: Plan, place: Place) -> list[Job]:
    if not place.has_store():
        new = [Decision(True, "new", planned.suites) for planned in plan.trials]
        return list(jobs_of(plan, new, [planned.suites for planned in plan.layers]))
    with place.store() as store:
        reuse = Reuse(store, place.home, machine_row(store, prepared_machine()))
        return list(jobs_of(plan, reuse.trials(plan.trials), reuse.layers(plan.layers)))


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
