"""The conformance checks: seconds on a CPU, for built-in components and plugins alike."""

from bench.check.device import EQUAL, HALF_BOUNDS, Agreement, agreement, routers_to_compare
from bench.check.device_speed import (
    DENSE,
    MODELS,
    QUICK,
    WHOLE,
    Effort,
    Speed,
    layer_speed,
    model_speed,
)
from bench.check.outcome import render
from bench.check.run import check_component, check_router
