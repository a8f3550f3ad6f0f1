"""The conformance checks: seconds, on a CPU, for built-in components and plugins alike."""

from bench.check.outcome import CheckReport, CheckResult
from bench.check.render import render
from bench.check.suite import (
    check_component,
    check_dataset,
    check_experts,
    check_loss,
    check_router,
)

__all__ = [
    "CheckReport",
    "CheckResult",
    "check_component",
    "check_dataset",
    "check_experts",
    "check_loss",
    "check_router",
    "render",
]
