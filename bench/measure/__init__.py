"""Measurement: the subjects of suites, and the running of a suite on one of them."""

from bench.measure.layers import LayerOfTrial, layers_by_image
from bench.measure.running import refuse_transfer, run_suite, storable
from bench.measure.subjects import TrainedTrial
