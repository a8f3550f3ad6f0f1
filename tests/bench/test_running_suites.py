"""Checks of what a suite yields, before it is stored; their errors name the suite."""

from concurrent.futures import Future

import numpy as np
import pytest
import torch

from bench.execute.processes import _outcome_of
from bench.measure import run_suite
from results import StoreError, UnstorableError
from suites import SUITES, Array, Metric, MetricDef, Suite, register_suite

DECLARED = MetricDef("steps_taken", "steps", None, "Steps.")


@pytest.fixture
def yielding():
    """Register a suite that yields these values, for as long as the test runs."""

    def register(*values):
        @register_suite("mine")
        class Mine(Suite):
            on = "trial"
            main_metric = "steps_taken"
            metrics = (DECLARED,)

            def measure(self, subject):
                yield from values

    yield register
    SUITES.discard("mine")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3.0, "suite 'mine' yields a float, not a Metric or an Array"),
        (
            Metric("steps_take", 1.0),
            "suite 'mine' yields 'steps_take', which its `metrics` do not declare; did you mean "
            "'steps_taken'?",
        ),
        (
            Metric("steps_taken", 1.0, where={"k": torch.tensor(1)}),
            "suite 'mine' yields 'steps_taken', which cannot be stored: Object of type Tensor",
        ),
        (
            Array("steps_taken", np.array([{}, None])),
            "which cannot be stored: its values are objects, not numbers or text",
        ),
        (Metric("steps_taken", "many"), "which cannot be stored: could not convert string"),
        (
            Metric("steps_taken", 1.0, where={"k": float("nan")}),
            "suite 'mine' yields 'steps_taken', which cannot be stored: Out of range float",
        ),
    ],
)
def test_a_result_that_cannot_be_stored_fails_the_suite_by_name(yielding, value, message):
    yielding(value)
    result = run_suite("mine", {}, object)
    assert result.status == "failed"
    assert message in result.error


def test_a_number_of_any_kind_is_stored_as_a_float(yielding):
    yielding(Metric("steps_taken", torch.tensor(2.0)), Metric("steps_taken", 3, layer=0))
    result = run_suite("mine", {}, object)
    assert result.status == "done"
    assert [metric.value for metric in result.metrics] == [2.0, 3.0]
    assert all(type(metric.value) is float for metric in result.metrics)


@pytest.mark.parametrize(
    ("error", "status"),
    [(StoreError("out of reach"), "interrupted"), (UnstorableError("an object"), "failed")],
)
def test_a_value_that_the_database_cannot_hold_is_a_failure_and_not_an_interruption(error, status):
    future = Future()
    future.set_exception(error)
    assert _outcome_of(future, stopping=False).status == status
