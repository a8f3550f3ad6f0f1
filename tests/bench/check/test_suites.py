"""The checks of suites accept results that match their declarations, and name others."""

import math

import numpy as np
import pytest

from bench.check import check_component
from bench.cli import main
from suites import SUITES, Array, Metric, MetricDef, Suite, register_suite

DECLARED = (MetricDef("decided", "share", "higher", "Mean of the largest gate."),)
PLACED = {"layer": 1, "split": "val", "where": {"of": "gates"}}


def checked(*values, on="layer", reason=None, **attributes):
    """Report on a suite that yields these values, or what they return for its subject."""
    base = {"on": on, "main_metric": "decided", "metrics": DECLARED}

    class Mine(Suite):
        def applies_to(self, subject):
            return reason

        def measure(self, subject):
            for value in values:
                yield value(subject) if callable(value) else value

    for name, value in (base | attributes).items():
        setattr(Mine, name, value)
    register_suite("mine")(Mine)
    try:
        return check_component(SUITES.get("mine"))
    finally:
        SUITES.discard("mine")


def largest_gate(subject):
    batch = next(iter(subject.run(subject.model, "test")))
    return Metric("decided", float(batch.routings[0].gates.amax(-1).mean()), split="test")


def test_a_suite_of_trials_passes_and_its_results_are_listed():
    extra = MetricDef("unseen", "", None, "Never yielded.")
    report = checked(largest_gate, on="trial", metrics=(*DECLARED, extra))
    assert report.passed
    assert report.results[0].detail == "yields decided; not for this subject: unseen"
    headline = report.results[-1].detail
    assert headline.startswith("decided = 0.")
    assert 1 / 4 < float(headline.removeprefix("decided = ")) < 1


def test_the_checked_trial_has_snapshots_splits_and_a_protected_attribute():
    def counts(subject):
        steps = [snapshot.step for snapshot in subject.snapshots]
        images = sum(len(batch.labels) for batch in subject.run(subject.model, "test"))
        assert (steps, images) == ([0, 24], 48)
        assert subject.attribute("test").bincount().tolist() == [24, 24]
        return Metric("decided", 1.0)

    assert checked(counts, on="trial").passed


@pytest.mark.parametrize(
    ("values", "check", "message"),
    [
        ([Metric("decides", 1.0)], "runs", "'decides', which its `metrics` do not declare"),
        ([1.0], "runs", "suite 'mine' yields a float, not a Metric or an Array"),
        ([], "runs", "it yields nothing"),
        ([lambda subject: subject.nothing], "runs", "AttributeError"),
        (
            [Metric("decided", 1.0), Metric("decided", math.nan, **PLACED)],
            "finite",
            'Metric \'decided\' of layer 1, split val, where {"of": "gates"} is nan',
        ),
        (
            [Metric("decided", 1.0), Metric("decided", -math.inf, step=3)],
            "finite",
            "step 3 is -inf",
        ),
        (
            [Metric("decided", 1.0), *(Metric("decided", v, **PLACED) for v in (1.0, 2.0))],
            "apart",
            'Metric \'decided\' of layer 1, split val, where {"of": "gates"} is yielded 2 times',
        ),
        ([Metric("decided", 1.0, layer=0)], "headline", "is yielded 0 times, not once"),
        (
            [Metric("decided", 1.0, split=split) for split in ("val", "test")],
            "headline",
            "'decided' of no layer and no step is yielded 2 times, not once",
        ),
    ],
)
def test_only_the_fault_of_a_suite_is_named(values, check, message):
    (failure,) = checked(*values).failures
    assert failure.name == check
    assert message in failure.detail


def test_a_metric_and_an_array_may_share_name_and_location():
    assert checked(Metric("decided", 1.0), Array("decided", np.ones(2))).passed


def test_a_suite_that_does_not_apply_is_not_reported_as_passed():
    report = checked(Metric("decided", 1.0), reason="no expert is left")
    assert report.passed
    assert report.results[0].status == "not applicable"
    assert report.results[0].detail.endswith("nothing to measure: no expert is left")
    assert {result.status for result in report.results[1:]} == {"not run"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SUITES.names())
def test_built_in_suites_pass(name):
    report = check_component(SUITES.get(name))
    assert report.passed, report.failures
    # Without a target data set, few-shot has nothing to measure.
    applies = name != "fewshot"
    assert ({result.status for result in report.results} == {"passed"}) is applies


def test_the_command_checks_a_suite(capsys):
    with pytest.raises(SystemExit) as exited:
        main(["check", "accuracy"])
    shown = " ".join(capsys.readouterr().out.split())
    assert exited.value.code == 0
    assert "yields top1, top5" in shown
