"""Running every check on a router in all its settings."""

from __future__ import annotations

import inspect
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bench.check import behaviour, learning, routing
from bench.check.outcome import CheckReport, CheckResult, Failed, NotApplicable
from bench.check.subject import Subject, subjects
from routers import ROUTERS, Baseline


@dataclass(frozen=True)
class Check:
    """A property that every router must have.

    Attributes:
        run: raises `Failed` or `NotApplicable`, or returns what is worth saying.
    """

    name: str
    run: Callable[[Subject], str]

    @property
    def meaning(self) -> str:
        """One sentence: what holds where it passes."""
        return (inspect.getdoc(self.run) or "").partition("\n")[0]


RUNS = Check("runs", behaviour.runs)
CHECKS = (
    Check("shapes", routing.shapes),
    Check("definition", learning.definition),
    Check("counts", routing.counts),
    Check("capacity", routing.capacity),
    Check("slots", routing.slots),
    Check("gates", routing.gates),
    Check("gradient", learning.gradient),
    Check("repeatable", behaviour.repeatable),
    Check("seeded", behaviour.seeded),
    Check("groups", behaviour.groups),
    Check("finite", behaviour.finite),
    Check("autocast", behaviour.autocast),
    Check("save", behaviour.saved),
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
    if issubclass(ROUTERS.get(name).target, Baseline):
        note = "a baseline without MoE layers: there is nothing to route, hence nothing to check"
        return CheckReport(name, (), note=note)
    begin = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        settings = subjects(name, hyper, {"dim": dim, "num_experts": num_experts, "tokens": tokens})
        runs = _result(RUNS, settings)
        # A setting that crashes is told once, and the other checks have the rest to say.
        running = [subject for subject in settings if _holds(RUNS, subject)]
        results = (runs, *(_result(check, running) for check in CHECKS))
    labels = tuple(subject.label for subject in settings)
    return CheckReport(name, results, labels, seconds=time.perf_counter() - begin)


def _result(check: Check, settings: list[Subject]) -> CheckResult:
    """The first failure over all settings; else what the default setting has to say."""
    said, skipped = [], ["the router does not run"]
    for subject in settings:
        try:
            said.append(check.run(subject))
        except NotApplicable as reason:
            skipped.append(str(reason))
        except Failed as failure:
            detail = f"{subject.label}: {failure}"
            return CheckResult(check.name, check.meaning, "failed", detail)
        except Exception as error:
            detail = f"{subject.label}: {_crash(error, subject)}"
            return CheckResult(check.name, check.meaning, "failed", detail)
    if said:
        return CheckResult(check.name, check.meaning, "passed", said[0])
    return CheckResult(check.name, check.meaning, "not applicable", skipped[-1])


def _holds(check: Check, subject: Subject) -> bool:
    return _result(check, [subject]).status == "passed"


def _crash(error: Exception, subject: Subject) -> str:
    """What was raised, and at which line of the router's own file."""
    file = inspect.getsourcefile(ROUTERS.get(subject.name).target)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file]
    where = f", at {own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else ""
    notes = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
    return f"{notes}{type(error).__name__}: {error}{where}"
