"""Measuring: the subjects of suites, and a suite's run on one of them."""

from bench.measure.running import run_suite
from bench.measure.subjects import LayerOfTrial, TrainedTrial, layers_by_image
from bench.measure.transfer import refuse_transfer
