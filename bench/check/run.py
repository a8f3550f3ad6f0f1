"""Running checks on a component in all its settings."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch

from bench.check import behaviour, datasets, experts, losses, routing, steps
from bench.check.cases import subjects
from bench.check.outcome import (
    CheckReport,
    CheckResult,
    Failed,
    NotApplicable,
    crash,
    own_file,
    with_line,
)
from bench.data import find_dataset
from routers import ROUTERS, Baseline, Entry, RequestError


class Setting(Protocol):
    """A component with certain options, in surroundings in which it can be tried."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def entry(self) -> Entry: ...

    @property
    def label(self) -> str:
        """The options in words."""


Tried = TypeVar("Tried", bound=Setting)


@dataclass(frozen=True)
class Check(Generic[Tried]):
    """A property that every component of a kind must have.

    Attributes:
        run: raises `Failed` or `NotApplicable`, or returns what is worth saying.
        after: checks whose failure may be the reason why this one fails.
    """

    name: str
    run: Callable[[Tried], str]
    after: tuple[str, ...] = ()

    @property
    def meaning(self) -> str:
        """One sentence that holds where the check passes."""
        return (inspect.getdoc(self.run) or "").partition("\n")[0]


def run_checks(
    entry: Entry, runs: Check[Tried], checks: Sequence[Check[Tried]], settings: Sequence[Tried]
) -> CheckReport:
    """Run every check in every setting.

    Args:
        runs: the check without which the others have nothing to say.
    """
    begin = time.perf_counter()
    results = {runs.name: _result(runs, settings)}
    # A setting that crashes is reported once; the other checks run on the remaining settings.
    running = [setting for setting in settings if _result(runs, [setting]).status == "passed"]
    for check in checks:
        result = _result(check, running)
        if result.status == "failed":
            reasons = (name for name in check.after if results[name].status == "failed")
            result = replace(result, follows=next(reasons, ""))
        results[check.name] = result
    labels = tuple(setting.label for setting in settings)
    seconds = time.perf_counter() - begin
    return CheckReport(entry.kind, entry.name, tuple(results.values()), labels, seconds=seconds)


def _result(check: Check[Tried], settings: Sequence[Tried]) -> CheckResult:
    """Return the first failure over all settings; else the first thing that is worth saying."""
    said, skipped = [], []
    for setting in settings:
        try:
            said.append((setting.label, check.run(setting)))
        except NotApplicable as reason:
            skipped.append(str(reason))
        except Failed as failure:
            detail = with_line(failure, own_file(setting.entry), _again(check, setting))
            return CheckResult(check.name, check.meaning, "failed", f"{setting.label}: {detail}")
        except Exception as error:
            detail = crash(error, own_file(setting.entry), _again(check, setting))
            return CheckResult(check.name, check.meaning, "failed", f"{setting.label}: {detail}")
    if said:
        return CheckResult(check.name, check.meaning, "passed", _worth_saying(said))
    if skipped:
        return CheckResult(check.name, check.meaning, "not applicable", skipped[-1])
    return CheckResult(check.name, check.meaning, "not run")


def _again(check: Check[Tried], setting: Tried) -> Callable[[], object]:
    """Repeat a check on a copy, which has nothing computed yet."""
    return partial(check.run, replace(setting))


def _worth_saying(said: list[tuple[str, str]]) -> str:
    """Return the note of the first setting; else that of another, with its label."""
    if said[0][1]:
        return said[0][1]
    return next((f"{label}: {text}" for label, text in said if text), "")


OF_ROUTERS = (
    Check("finite", behaviour.finite),
    Check("shapes", routing.shapes),
    Check("counts", routing.counts, after=("shapes",)),
    Check("slots", routing.slots, after=("shapes",)),
    Check("definition", behaviour.definition, after=("shapes", "slots")),
    Check("capacity", routing.capacity, after=("shapes", "counts", "slots")),
    Check("gates", routing.gates, after=("shapes",)),
    Check("gradient", behaviour.gradient, after=("definition",)),
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
    Check("width", experts.grows),
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
        return run_checks(entry, Check("runs", behaviour.runs), OF_ROUTERS, settings)


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


IN_SETTINGS: dict[str, tuple[ModuleType, Sequence[Check[Any]]]] = {
    "experts": (experts, OF_EXPERTS),
    "loss": (losses, OF_LOSSES),
}
"""By kind of components that are checked in settings of their own: where these are made."""
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
    if entry.kind == "router":
        return check_router(entry.name)
    if entry.kind not in IN_SETTINGS:
        raise RequestError(
            f"there are no checks for the {entry.kind} {entry.name!r}: {UNCHECKED[entry.kind]}"
        )
    module, checks = IN_SETTINGS[entry.kind]
    with torch.random.fork_rng(devices=[]):
        return run_checks(entry, Check("runs", module.runs), checks, module.settings(entry))
