"""The conformance checks: seconds, on a CPU, for built-in components and plugins alike."""

from bench.check.outcome import CheckReport, CheckResult, render
from bench.check.run import check_component, check_router

__all__ = [
    "CheckReport",
    "CheckResult",
    "check_component",
    "check_router",
    "render",
]
