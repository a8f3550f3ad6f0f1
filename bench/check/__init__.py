"""The conformance checks: seconds, on a CPU, for built-in components and plugins alike."""

from bench.check.outcome import render
from bench.check.run import check_component, check_router
