"""Measuring: what suites are handed, and one suite at work on it."""

from bench.measure.run_suites import run_suite
from bench.measure.subjects import LayerOfTrial, TrainedTrial

__all__ = ["LayerOfTrial", "TrainedTrial", "run_suite"]
