"""What `plan` prints: what each training takes, what is reused and why, and the sums."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rich.console import Console

from bench.cli.place import Place
from bench.cli.words import add_grouped, count, flops, show, size, table
from bench.compute.estimate import Estimate, estimate
from bench.config import TrialSpec
from bench.datasets import Datasets
from bench.execute.workplace import prepared_machine
from bench.expected import load_or_expect
from bench.fingerprint import canonical
from bench.plan import Plan, Request, labels, make_plan
from bench.reuse import Decision, Reuse
from bench.specs import trial_specs
from results.identities import machine_row


@dataclass(frozen=True)
class Row:
    """The trials that differ in the seed alone."""

    label: str
    takes: Estimate
    disk_bytes: int


def print_plan(request: Request, place: Place) -> None:
    """Print the plan of a request; nothing is trained or written."""
    datasets = Datasets()
    specs = trial_specs(request.preset)
    here = all(load_or_expect(spec.data, datasets)[1] is not None for spec in specs)
    plan = make_plan(request, datasets) if here else None
    trained = specs if plan is None else [planned.spec for planned in plan.trials]
    if trained:
        _print_trainings(request, _rows(trained, datasets), len(trained))
    if plan is None:
        names = ", ".join(sorted({spec.data.name for spec in specs}))
        print(f"The data ({names}) is not here: what could be reused is not known.")
    else:
        _print_decisions(plan, place)


def _rows(specs: list[TrialSpec], datasets: Datasets) -> list[Row]:
    once = {
        canonical(spec.condition()): (label, spec)
        for label, spec in zip(labels(specs), specs, strict=True)
    }
    rows = []
    with Console(stderr=True).status("") as status:
        for label, spec in once.values():
            status.update(f"counting {label}")
            takes = _takes(spec, datasets)
            files = max(spec.train.snapshots, 1)
            rows.append(Row(label, takes, takes.checkpoint_bytes * files))
    return rows


def _takes(spec: TrialSpec, datasets: Datasets) -> Estimate:
    own, *others = [load_or_expect(of.data, datasets)[0] for of in (spec, spec.parent) if of]
    return estimate(spec, own, *others)


def _print_trainings(request: Request, rows: list[Row], trials: int) -> None:
    seeds = request.preset.seeds
    print(
        f"Study {request.study}, preset {request.preset.name}: {trials} trials, {seeds} seed(s)\n"
    )
    made = table(
        *("router", "steps", "params", "FLOPs", "memory", "disk"),
        right="steps params FLOPs memory disk",
    )
    add_grouped(made, ((*_parts(row.label), _cells(row)) for row in rows))
    show(made)
    spent = sum(row.takes.budget.steps * row.takes.budget.flops_per_step for row in rows)
    print(
        f"\nOf one training each. All {trials}: {flops(spent * seeds)} FLOPs and "
        f"{size(sum(row.disk_bytes for row in rows) * seeds)} of disk;\nthe largest needs "
        f"{size(max(row.takes.training_bytes for row in rows))} of memory.\n"
    )
    for row in rows:
        if row.takes.expert_facts:
            told = ", ".join(
                f"{name} {value:.4g}" for name, value in row.takes.expert_facts.items()
            )
            print(f"{row.label}: {told}")


def _parts(label: str) -> tuple[str, str]:
    """Router and condition."""
    router, _, condition = label.partition(" ")
    return router, condition


def _cells(row: Row) -> list[str]:
    budget = row.takes.budget
    return [
        f"{budget.steps:,}",
        count(row.takes.parameters),
        flops(budget.steps * budget.flops_per_step),
        size(row.takes.training_bytes),
        size(row.disk_bytes),
    ]


def _print_decisions(plan: Plan, place: Place) -> None:
    """Counts by reason: what is trained, what is reused, what is measured."""
    trials, layers = _decide(plan, place)
    for train, verb in ((True, "to train"), (False, "reused")):
        reasons = Counter(decision.reason for decision in trials if decision.train is train)
        for reason, number in reasons.most_common():
            print(f"{number:>5} {verb}: {reason}")
    due = Counter(suite.name for decision in trials for suite in decision.due)
    due.update(suite for suites in layers for suite in suites)
    measurements = ", ".join(f"{suite} {number}" for suite, number in due.items())
    print(f"{due.total():>5} to measure{': ' * bool(due)}{measurements}")


def _decide(plan: Plan, place: Place) -> tuple[list[Decision], list[list[str]]]:
    """What to do about each trial, and the suites due on each layer."""
    if not place.has_store():
        trials = [Decision(True, "new", planned.suites) for planned in plan.trials]
        return trials, [[suite.name for suite in planned.suites] for planned in plan.layers]
    with place.store() as store:
        reuse = Reuse(store, place.home, machine_row(store, prepared_machine()))
        trials = reuse.trials(plan.trials)
        return trials, [[suite.name for suite in due] for due in reuse.layers(plan.layers)]
