"""Running checks on a component in all its settings."""

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from bench.check import behaviour, datasets, experts, losses, routing, suites
from bench.check.cases import Setting, subjects
from bench.check.outcome import CheckReport, CheckResult, NotApplicable, describe_failure
from bench.data import find_dataset
from routers import ROUTERS, Baseline, Entry, RequestError

Check = Callable[[Any], str | None]
"""A function that raises `Failed` or `NotApplicable`, or returns anything worth noting about a
setting; the first line of its docstring states what holds if it passes."""

Checks = Mapping[Check, str]
"""Checks, first the one that all others rely on; each with the names of those whose failure may
explain its own."""

OF_ROUTERS: Checks = {
    routing.runs: "",
    routing.finite: "",
    routing.shapes: "",
    routing.counts: "shapes",
    routing.slots: "shapes",
    behaviour.definition: "shapes slots",
    routing.capacity: "shapes counts slots",
    routing.gates: "shapes",
    behaviour.gradient: "definition",
    behaviour.repeatable: "",
    behaviour.seeded: "repeatable",
    behaviour.groups: "repeatable",
    behaviour.images: "repeatable groups",
    behaviour.autocast: "repeatable",
    behaviour.save: "repeatable",
    behaviour.steps: "repeatable seeded save",
}
OF_EXPERTS: Checks = {
    experts.runs: "",
    experts.shapes: "",
    experts.definition: "shapes",
    experts.repeatable: "",
    experts.apart: "repeatable",
    experts.off: "repeatable",
    experts.width: "",
    experts.gradient: "",
    experts.finite: "",
    experts.save: "repeatable",
}
OF_LOSSES: Checks = {
    losses.runs: "",
    losses.scalar: "",
    losses.gradient: "scalar",
    losses.pure: "scalar",
    losses.order: "scalar pure",
    losses.finite: "scalar",
}
OF_DATASETS: Checks = {
    datasets.runs: "",
    datasets.names: "",
    datasets.images: "",
    datasets.labels: "",
    datasets.splits: "names images labels",
    datasets.repeatable: "splits",
    datasets.apart: "splits",
}
OF_SUITES: Checks = {suites.runs: "", suites.finite: "", suites.apart: "", suites.headline: "apart"}


def run_checks(entry: Entry, checks: Checks, settings: Sequence[Setting]) -> CheckReport:
    """Run every check in every setting."""
    begin = time.perf_counter()
    results: dict[str, CheckResult] = {}
    running = settings
    for check, after in checks.items():
        result = _result(check, running)
        if result.status == "failed":
            reasons = (name for name in after.split() if results[name].status == "failed")
            result = replace(result, follows=next(reasons, ""))
        if not results:
            # A setting that crashes is reported once; the other checks run on the remaining ones.
            running = [each for each in settings if _result(check, [each]).status == "passed"]
        results[result.name] = result
    labels = tuple(setting.label for setting in settings)
    seconds = time.perf_counter() - begin
    return CheckReport(entry.kind, entry.name, tuple(results.values()), labels, seconds=seconds)


def _result(check: Check, settings: Sequence[Setting]) -> CheckResult:
    """Return the first failure over all settings, else the first thing worth noting."""
    meaning = (inspect.getdoc(check) or "").partition("\n")[0]
    result = partial(CheckResult, check.__name__, meaning)
    notes, skipped = [], ""
    for setting in settings:
        try:
            notes.append((setting.label, check(setting)))
        except NotApplicable as reason:
            skipped = str(reason)
        except Exception as error:
            again = partial(check, replace(setting))  # a copy, with nothing cached yet
            detail = describe_failure(error, setting.entry, again)
            return result("failed", f"{setting.label}: {detail}")
    if notes:
        # The note of the first setting; else that of another, with its label.
        others = (f"{label}: {note}" for label, note in notes if note)
        return result("passed", notes[0][1] or next(others, ""))
    return result("not applicable", skipped) if skipped else result("not run")


def check_router(
    name: str, *, dim: int = 8, num_experts: int = 4, tokens: int = 16, **hyper: Any
) -> CheckReport:
    """Prove a router correct, as far as examples can.

    The router is checked with its defaults and with each hyper-parameter but those given changed
    from its default, in a small MoE layer with groups of `tokens` tokens, mostly in float64.

    Raises:
        RequestError: there is no such router, or it does not have a given hyper-parameter.
    """
    entry = ROUTERS.get(name)
    if issubclass(entry.target, Baseline):
        note = "a baseline without MoE layers: there is nothing to route, hence nothing to check"
        return CheckReport(entry.kind, name, note=note)
    with torch.random.fork_rng(devices=[]):
        settings = subjects(name, hyper, {"dim": dim, "num_experts": num_experts, "tokens": tokens})
        return run_checks(entry, OF_ROUTERS, settings)


def check_component(entry: Entry, name: str | None = None) -> CheckReport:
    """Run the checks of a component's kind.

    Args:
        name: the name by which it was requested, if that says more than its own: for a data set
            that takes an argument, such as a path, the name with the argument.

    Raises:
        RequestError: there are no checks for its kind, or there is no such data set.
    """
    with torch.random.fork_rng(devices=[]):
        match entry.kind:
            case "router":
                return check_router(entry.name)
            case "experts":
                return run_checks(entry, OF_EXPERTS, experts.settings(entry))
            case "loss":
                return run_checks(entry, OF_LOSSES, losses.settings(entry))
            case "dataset":
                return _check_dataset((name or entry.name).removeprefix("dataset:"))
            case "suite":
                return run_checks(entry, OF_SUITES, [suites.Subject(entry, {})])
    raise RequestError(
        f"there are no checks for the {entry.kind} {entry.name!r}: "
        "every router is checked with every affinity"
    )


def _check_dataset(name: str) -> CheckReport:
    entry, arguments = find_dataset(name)
    if entry.name.partition(":")[2] in arguments:
        note = f"write what it is to read in place of {arguments[0]}"
        return CheckReport(entry.kind, name, note=note)
    report = run_checks(entry, OF_DATASETS, [datasets.Subject(entry, {}, name)])
    return replace(report, name=name)
