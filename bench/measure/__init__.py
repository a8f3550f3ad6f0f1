"""Measuring: the subjects of suites, and a suite's run on one of them."""

from bench.measure.run_suites import run_suite
from bench.measure.subjects import LayerOfTrial, TrainedTrial

__all__ = ["LayerOfTrial", "TrainedTrial", "run_suite"]
