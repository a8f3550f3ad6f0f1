"""The conformance checks for a router: seconds, on a CPU, for built-in ones and plugins alike."""

from bench.check.outcome import CheckReport, CheckResult
from bench.check.render import render
from bench.check.suite import check_router

__all__ = ["CheckReport", "CheckResult", "check_router", "render"]
