"""The checks of each kind of component."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from bench.check import (
    behaviour,
    datasets,
    experts,
    learning,
    losses,
    routing,
    soundness,
    steps,
    width,
)
from bench.check.outcome import CheckReport
from bench.check.running import Check, run_checks
from bench.check.subject import subjects
from bench.data.registry import find_dataset
from bench.model import EXPERTS
from routers import LOSSES, ROUTERS, Baseline, Entry, RequestError

OF_ROUTERS = (
    Check("finite", soundness.finite),
    Check("shapes", routing.shapes),
    Check("counts", routing.counts, after=("shapes",)),
    Check("slots", routing.slots, after=("shapes",)),
    Check("definition", learning.definition, after=("shapes", "slots")),
    Check("capacity", routing.capacity, after=("shapes", "counts", "slots")),
    Check("gates", routing.gates, after=("shapes",)),
    Check("gradient", learning.gradient, after=("definition",)),
    Check("repeatable", behaviour.repeatable),
    Check("seeded", behaviour.seeded, after=("repeatable",)),
    Check("groups", behaviour.groups, after=("repeatable",)),
    Check("autocast", behaviour.autocast, after=("repeatable",)),
    Check("save", behaviour.saved, after=("repeatable",)),
    Check("steps", steps.resumed, after=("repeatable", "seeded", "save")),
)
OF_EXPERTS = (
    Check("shapes", experts.shapes),
    Check("definition", experts.definition, after=("shapes",)),
    Check("repeatable", experts.repeatable),
    Check("apart", experts.apart, after=("repeatable",)),
    Check("off", experts.switched_off, after=("repeatable",)),
    Check("width", width.grows),
    Check("gradient", experts.gradient),
    Check("finite", experts.finite),
    Check("save", experts.saved, after=("repeatable",)),
)
OF_LOSSES = (
    Check("scalar", losses.scalar),
    Check("gradient", losses.gradient, after=("scalar",)),
    Check("pure", losses.pure, after=("scalar",)),
    Check("order", losses.order, after=("scalar", "pure")),
    Check("finite", losses.finite, after=("scalar",)),
)
OF_DATASETS = (
    Check("names", datasets.names),
    Check("images", datasets.images),
    Check("labels", datasets.labels),
    Check("splits", datasets.splits, after=("names", "images", "labels")),
    Check("repeatable", datasets.repeatable, after=("splits",)),
    Check("apart", datasets.apart, after=("splits",)),
)


def check_router(
    name: str, *, dim: int = 8, num_experts: int = 4, tokens: int = 16, **hyper: Any
) -> CheckReport:
    """Prove a router correct, as far as examples can.

    The router is checked with its defaults and with each hyper-parameter moved from its default,
    in a small MoE layer, mostly in float64.

    Args:
        name: a registered router.
        dim: width of the tokens.
        num_experts: E.
        tokens: tokens of a group.
        hyper: hyper-parameters that are held at these values.

    Raises:
        RequestError: no such router, or a hyper-parameter that it does not have.
    """
    entry = ROUTERS.get(name)
    if issubclass(entry.target, Baseline):
        note = "a baseline without MoE layers: there is nothing to route, hence nothing to check"
        return CheckReport(entry.kind, name, note=note)
    with torch.random.fork_rng(devices=[]):
        settings = subjects(name, hyper, {"dim": dim, "num_experts": num_experts, "tokens": tokens})
        return run_checks(entry, Check("runs", soundness.runs), OF_ROUTERS, settings)


def check_experts(name: str) -> CheckReport:
    """Prove experts correct, in the place of everything that they can stand in for.

    Raises:
        RequestError: no such experts.
    """
    entry = EXPERTS.get(name)
    with torch.random.fork_rng(devices=[]):
        return run_checks(entry, Check("runs", experts.runs), OF_EXPERTS, experts.settings(entry))


def check_loss(name: str) -> CheckReport:
    """Prove an auxiliary loss sound, on the routings of every kind.

    Raises:
        RequestError: no such loss.
    """
    entry = LOSSES.get(name)
    with torch.random.fork_rng(devices=[]):
        return run_checks(entry, Check("runs", losses.runs), OF_LOSSES, losses.settings(entry))


def check_dataset(name: str) -> CheckReport:
    """Prove a data set sound: what its function returns, and the splits that are made of it.

    Args:
        name: as of `data.name`, so with a path or name of its own where it takes one.

    Raises:
        RequestError: no such data set.
    """
    entry, arguments = find_dataset(name)
    if entry.name.partition(":")[2] in arguments:
        note = f"write what it is to read in the place of {arguments[0]}"
        return CheckReport(entry.kind, name, note=note)
    subject = datasets.Subject(entry, name)
    report = run_checks(entry, Check("runs", datasets.runs), OF_DATASETS, [subject])
    return replace(report, name=name)


CHECKERS: dict[str, Callable[[str], CheckReport]] = {
    "router": check_router,
    "experts": check_experts,
    "loss": check_loss,
}
UNCHECKED = {
    "affinity": "every router is checked with every affinity",
    "suite": "it is tried by `run SUITE --preset smoke`",
}
"""By kind of components that have no checks, what is done instead."""


def check_component(entry: Entry, name: str | None = None) -> CheckReport:
    """Run the checks of a component's kind.

    Args:
        name: by which it was asked for, where that says more than its own.

    Raises:
        RequestError: there are none for its kind.
    """
    if entry.kind == "dataset":
        return check_dataset((name or entry.name).removeprefix("dataset:"))
    if entry.kind not in CHECKERS:
        raise RequestError(
            f"there are no checks for the {entry.kind} {entry.name!r}: {UNCHECKED[entry.kind]}"
        )
    return CHECKERS[entry.kind](entry.name)
