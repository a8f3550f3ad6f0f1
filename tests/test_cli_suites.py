"""A user's own suites from one plugin file, in whole commands; the report needs no plugin."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PLUGIN = '''
"""Two suites of mine."""
from suites import LayerSubject, Metric, MetricDef, Suite, TrialSubject
from suites import layers_and_mean, register_suite


@register_suite("decided", family="routing")
class Decided(Suite[TrialSubject]):
    """How large the largest gate is."""

    on = "trial"
    main_metric = "largest_gate"
    metrics = (MetricDef("largest_gate", "share", "higher", "Mean of a token's largest gate."),)

    def measure(self, subject):
        yield from self.of_model(subject, subject.model, None)
        for snapshot in subject.snapshots:
            yield from self.of_model(subject, snapshot.load(), snapshot.step)

    def of_model(self, subject, model, step):
        batch = next(iter(subject.run(model, "val")))
        layers = [float(routing.gates.amax(-1).mean()) for routing in batch.routings]
        yield from layers_and_mean([[Metric("largest_gate", v, step=step)] for v in layers])


@register_suite("weights", family="cost")
class Weights(Suite[LayerSubject]):
    """How many weights a bare layer has."""

    on = "layer"
    main_metric = "weights"
    main_where = {"hidden": 16}
    metrics = (MetricDef("weights", "", "lower", "Parameters of a bare layer."),)

    def measure(self, subject):
        for hidden in (8, 16):
            layer = subject.layer(2, 4, 8, hidden, subject.num_experts)
            count = sum(parameter.numel() for parameter in layer.parameters())
            yield Metric("weights", count, where={"hidden": hidden})
'''


def test_suites_of_a_plugin_run_and_are_reported_without_the_plugin(
    tmp_path: Path, in_process
) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN, encoding="utf-8")
    asked = ("accuracy", "decided", "weights", "--preset", "smoke", "--set", "train.epochs=0.2")
    named = ("--routers", "softmax_token_choice,random", "--plugin", "mine.py")
    output = in_process(tmp_path, "run", *asked, *named).stdout
    assert "decided: largest_gate in % ↑" in output
    assert "weights: weights ↓" in output
    away = tmp_path / "away"
    away.mkdir()
    shutil.copy(tmp_path / "runs" / "bench.db", away)
    in_process(tmp_path, "report", "--home", str(away))
    tables = away / "reports" / "smoke" / "tables"
    (head, *_) = (tables / "main.csv").read_text(encoding="utf-8").splitlines()
    assert {"decided.largest_gate", "weights.weights"} <= set(head.split(","))
    assert "| largest_gate (%) ↑ |" in (tables / "suite_decided.md").read_text(encoding="utf-8")
    assert "| 0 |" in (tables / "all_of_decided.md").read_text(encoding="utf-8")
    assert "weights, hidden 16" in (tables / "suite_weights.md").read_text(encoding="utf-8")
    assert list((away / "reports" / "smoke" / "figures").glob("suite_decided*.png"))
    page = (away / "reports" / "smoke" / "index.html").read_text(encoding="utf-8")
    assert '<section id="suite-decided">' in page
    traced = in_process(
        tmp_path,
        *("report", "--home", str(away), "--trace", "suite_decided", "random", "largest_gate"),
    )
    assert "from 1 trial" in traced.stdout
