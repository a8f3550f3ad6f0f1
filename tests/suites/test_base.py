from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import suites
from routers import RequestError, load_plugin
from suites import SUITES, Metric, MetricDef, Suite, build_suite, register_suite
from suites.support.base import layers_and_mean
from suites.throughput import SHAPES

NEW_SUITE = '''
from suites import Metric, MetricDef, Suite, TrialSubject, register_suite

@register_suite("{name}", family="accuracy")
class Answered(Suite[TrialSubject]):
    """How many classes there are to answer with."""

    on = "trial"
    main_metric = "classes"
    metrics = (MetricDef("classes", "classes", None, "Classes."),)
    factor: int = 1

    def measure(self, subject):
        yield Metric("classes", self.factor * subject.num_classes)
'''

QUICK = {
    "throughput": {
        **{"seconds": 0.0, "min_repeats": 2, "max_load": None},
        **{"sweep_experts": [2], "model_batch": 2},
    },
    "editing": {"max_edits": 1},
}

SUITES_OF_OURS = [
    *("accuracy", "balance", "editing", "entropy", "specialization", "stability", "throughput"),
    "traces",
]


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch):
    """Use small shapes: what is measured does not depend on them, but the time it takes does."""
    monkeypatch.setitem(SHAPES, "B", (2, 12, 8, 16))


@pytest.mark.slow
def test_adding_a_suite_takes_one_new_file_and_no_other_change(tmp_path):
    shutil.copytree(Path(suites.__file__).parent, tmp_path / "suites")
    (tmp_path / "suites" / "answered.py").write_text(NEW_SUITE.format(name="answered"))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import suites; "
    code += "print(suites.SUITES.names())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "answered" in out.stdout
    assert "balance" in out.stdout


def test_a_plugin_can_bring_a_suite(tmp_path, trial):
    plugin = tmp_path / "my_suite.py"
    plugin.write_text(NEW_SUITE.format(name="from_plugin"))
    load_plugin(plugin)
    (metric,) = build_suite("from_plugin", factor=2).measure(trial("softmax_token_choice"))
    assert metric == Metric("classes", 14)
    assert SUITES.get("from_plugin").hyper[0].name == "factor"


def test_an_unknown_suite_or_option_is_refused_with_the_nearest_name():
    with pytest.raises(RequestError, match="did you mean 'balance'"):
        build_suite("balanse")
    with pytest.raises(RequestError, match="did you mean 'permutations'"):
        build_suite("entropy", permutation=3)
    with pytest.raises(RequestError, match="shapes"):
        build_suite("throughput", shapes=["C"])


SHARE = MetricDef("share", "", "higher", "A share.")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"on": None}, 'suite \'wrong\' has no `on`; write on = "trial" or on = "layer"'),
        ({"on": None, "onn": "trial"}, "has no `on`; it defines `onn`: did you mean `on`?"),
        ({"on": "trail"}, "suite 'wrong' has on = 'trail'; did you mean 'trial'?"),
        (
            {"main_metric": None, "main_metrik": "share"},
            "`main_metrik`: did you mean",
        ),
        ({"main_metric": "shares"}, "has main_metric = 'shares'; did you mean 'share'?"),
        ({"metrics": None}, "has no `metrics`; write metrics = (MetricDef("),
        ({"metrics": SHARE}, "metrics is a MetricDef, not a tuple of MetricDef; write metrics = ("),
        ({"metrics": (SHARE, "gini")}, "suite 'wrong': metrics has a str, not a MetricDef"),
        ({"metrics": (SHARE, SHARE)}, "suite 'wrong': metrics declares 'share' twice"),
        (
            {"metrics": (replace(SHARE, better="highest"),)},
            "metric 'share' has better = 'highest'; did you mean 'higher'?",
        ),
        (
            {"metrics": (replace(SHARE, unit=None),)},
            "a MetricDef has unit = None",
        ),
        ({"measure": Suite.measure}, "has no `measure`; write def measure(self, subject)"),
    ],
)
def test_a_wrong_declaration_is_refused_when_the_suite_is_registered(attributes, message):
    right = {
        "on": "trial",
        "main_metric": "share",
        "metrics": (SHARE,),
        "measure": lambda self, subject: iter(()),
    }
    try:
        register_suite("right")(type("Right", (Suite,), right))
        with pytest.raises(RequestError, match=re.escape(message)):
            register_suite("wrong")(type("Wrong", (Suite,), right | attributes))
        assert "wrong" not in SUITES.names()
    finally:
        SUITES.discard("right")


def test_means_over_layers_keep_names_and_places_separate():
    first = [Metric("a", 1.0, split="val"), Metric("a", 10.0, split="val", where={"of": "gates"})]
    second = [Metric("a", 3.0, split="val"), Metric("b", 5.0, split="val")]
    means = [m for m in layers_and_mean([first, second]) if m.layer is None]
    assert means == [
        Metric("a", 2.0, split="val"),
        Metric("a", 10.0, split="val", where={"of": "gates"}),
        Metric("b", 5.0, split="val"),
    ]


@pytest.mark.parametrize("suite", SUITES_OF_OURS)
@pytest.mark.slow
def test_all_results_are_declared_finite_and_distinguishable(suite, router, trial, layers):
    measuring = build_suite(suite, **QUICK.get(suite, {}))
    subject = trial(router) if measuring.on == "trial" else layers(router)
    assert measuring.applies_to(subject) is None
    results = list(measuring.measure(subject))
    declared = {definition.name for definition in measuring.metrics}
    assert {result.name for result in results} <= declared
    metrics = [result for result in results if isinstance(result, Metric)]
    assert all(math.isfinite(metric.value) for metric in metrics)
    places = [
        (type(r), r.name, r.layer, r.step, r.split, json.dumps(r.where, sort_keys=True))
        for r in results
    ]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("suite", SUITES_OF_OURS)
def test_the_main_metric_is_a_single_number(suite, trial, layers):
    measuring = build_suite(suite, **QUICK.get(suite, {}))
    router = "softmax_token_choice"
    subject = trial(router) if measuring.on == "trial" else layers(router)
    main = [
        result
        for result in measuring.measure(subject)
        if (result.name, result.layer, result.step) == (measuring.main_metric, None, None)
        and measuring.main_where.items() <= result.where.items()
    ]
    assert len(main) == 1


@pytest.mark.parametrize("suite", sorted(SUITES.names()))
def test_metric_names_are_declared_once_and_explained(suite):
    definitions = SUITES.get(suite).target.metrics
    names = [definition.name for definition in definitions]
    assert len(set(names)) == len(names)
    assert all(definition.meaning.endswith(".") for definition in definitions)
