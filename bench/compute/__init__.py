"""Counting FLOPs, and matching compute between routers."""

from bench.compute.budget import (
    Budget,
    ComputeUsed,
    Cost,
    match_compute,
    model_stats,
    parameters_of,
    trial_flops,
)
from bench.compute.estimates import Estimate, cost_of, estimate
from bench.compute.flops import FlopCounter, count_flops
from bench.compute.step_flops import Sizes, StepFlops, total_sizes
