"""A request becomes trials, layers and suites; done work is reused, and reasons are true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from bench.config.presets import load_preset
from bench.config.schema import DataConfig
from bench.data.registry import KNOWN_SHAPES, Datasets, load_with_shape
from bench.plan import fingerprint
from bench.plan.fingerprint import Fingerprint, Part, differences
from bench.plan.plan import Plan, Request, labels, make_plan, make_request
from bench.plan.registration import record_plan
from bench.plan.reuse import Reuse
from bench.train.outcome import SavedSnapshot
from results import CodeVersion, Machine, Store
from routers.errors import RequestError
from tests.bench.conftest import leave_outcome

ROUTERS = ("softmax_token_choice", "dense")
FILES = ("first", "weights")


@pytest.fixture
def plan(datasets: Datasets) -> Callable[..., Plan]:
    """Make plans of the preset smoke with two routers: `plan(seeds=2, suites=["balance"], …)`."""

    def make(**changes: object) -> Plan:
        asked = {"routers": ROUTERS, **changes}
        return make_plan(make_request(load_preset("smoke"), **asked), datasets)

    return make


def ended(store: Store, plan: Plan, status: str, checkpoint: str | None = None) -> None:
    """Give every trial of the plan an attempt that ended with this status."""
    machine = store.machine(Machine("host", "system", "processor", 2, 1, 10**9))
    code = store.code_version(CodeVersion(None, False, "3.11", {}))
    rows = record_plan(plan, store)
    for trial in plan.trials:
        attempt = store.begin_attempt(rows[trial.fingerprint.value], machine, code)
        if status != "running":
            store.finish_attempt(attempt, status, error="why it did", checkpoint=checkpoint)


def left_by_training(folder: Path) -> None:
    """Write the files that a training with two snapshots leaves; the snapshots are empty."""
    known = {"flops": 1.0, "seconds": 1.0, "sha256": "a" * 64}
    snapshots = [SavedSnapshot(step=n, file=name, **known) for n, name in enumerate(FILES)]
    for name in FILES:
        (folder / name).touch()
    leave_outcome(folder, snapshots)


def reasons(store: Store, plan: Plan, home: Path = Path()) -> set[tuple[bool, str]]:
    return {(d.train, d.reason) for d in Reuse(store, home, None).trials(plan.trials)}


def test_trials_and_layers_are_each_measured_by_their_own_suites(plan) -> None:
    made = plan(seeds=2)
    assert [planned.spec.seed for planned in made.trials] == [0, 0, 1, 1]
    about_routing = ["balance", "entropy", "specialization", "stability", "traces"]
    measured = ["accuracy", "fewshot", *about_routing, "scaling", "editing", "pruning"]
    assert [suite.name for suite in made.trials[0].suites] == measured
    assert [layer.label for layer in made.layers] == list(ROUTERS)
    assert [suite.name for suite in made.layers[0].suites] == ["throughput"]


def test_only_requested_suites_are_planned(plan) -> None:
    only_layers = plan(suites=["throughput"])
    assert (len(only_layers.trials), len(only_layers.layers)) == (0, 2)
    only_trials = plan(suites=["balance"])
    assert (len(only_trials.trials), len(only_trials.layers)) == (2, 0)
    assert [suite.name for suite in only_trials.trials[0].suites] == ["balance"]


def test_suite_options_are_resolved_and_validated(plan) -> None:
    made = plan(suites=["throughput"], settings={"suites.throughput.seconds": 1})
    options = made.layers[0].suites[0].options
    assert options["seconds"] == 1.0
    assert options["threads"] == 1
    with pytest.raises(RequestError, match=r"no hyper-parameter 'secs'; did you mean 'seconds'"):
        plan(suites=["throughput"], settings={"suites.throughput.secs": 1})


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, 8),  # the model's own option
        ({"data.image_size": 16, "model.options.img_size": 16}, 16),
        ({"model.name": "resmlp_12_224", "model.options": {}}, 224),
    ],
)
def test_images_of_any_size_are_resized_to_the_input_of_the_model(plan, tmp_path, settings, size):
    for number, name in enumerate(("cat", "dog")):
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        for index in range(3):
            Image.new("L", (9 + number, 12 + index)).save(folder / f"{index}.png")
    settings = {"data.name": f"imagefolder:{tmp_path}", **settings}
    (trial, *_) = plan(settings=settings).trials
    assert trial.spec.data.image_size == size
    assert Datasets().get(trial.spec.data).image_shape == (1, size, size)
    with pytest.raises(RequestError, match="unequal size"):
        plan(
            settings=settings
            | {"model.name": "mlp_mixer", "model.options": {}, "data.image_size": None}
        )


def test_a_label_says_how_a_trial_differs_from_the_others(plan) -> None:
    made = plan(sweep={"router.capacity_factor": (1, 2)}, seeds=2)
    names = labels([planned.spec for planned in made.trials])
    assert names[:3] == [
        "softmax_token_choice router.capacity_factor=1.0",
        "dense",
        "softmax_token_choice router.capacity_factor=2.0",
    ]
    assert names == [planned.label for planned in made.trials]


def test_a_sweep_over_experts_trains_a_model_without_experts_once(plan) -> None:
    routers, sweep = ["softmax_token_choice", "dense", "dense_params"], (2, 8)
    made = plan(routers=routers, sweep={"experts.num_experts": sweep}, seeds=1)
    by_router = Counter(planned.spec.router.name for planned in made.trials)
    assert by_router == {"softmax_token_choice": 2, "dense": 1, "dense_params": 2}
    assert [p.label for p in made.trials if p.spec.router.name == "dense"] == ["dense"]
    default = plan(routers=["dense"], seeds=1).trials
    (trained,) = [p for p in made.trials if p.spec.router.name == "dense"]
    assert trained.fingerprint == default[0].fingerprint


def test_a_request_is_stored_as_plain_data(store: Store, plan) -> None:
    request: Request = plan().request
    store.study(request.study, request.record())
    kept = store.find_study("smoke").request
    assert kept["preset"]["routers"] == list(ROUTERS)
    routing = {"balance", "entropy", "specialization", "stability", "traces", "pruning"}
    others = {"accuracy", "fewshot", "throughput", "scaling", "editing"}
    assert set(kept["suites"]) == others | routing


def test_a_plan_is_stored_with_everything_it_consists_of(store: Store, plan) -> None:
    made = plan()
    assert record_plan(made, store) == record_plan(made, store)
    study = store.find_study("smoke")
    assert (study.trials, study.layers) == (2, 2)
    first = store.all_trials()[0]
    assert {(part.kind, part.name) for part in first.components} == {
        ("router", "softmax_token_choice"),
        ("affinity", "linear"),
        ("experts", "mlp"),
        ("loss", "importance"),
        ("protocol", "training"),
        ("model", "vit_tiny_patch16_224"),
        ("data", "digits"),
    }
    assert first.description == made.trials[0].spec.model_dump(mode="json")


def test_trials_without_attempts_are_new(store: Store, plan) -> None:
    assert reasons(store, plan()) == {(True, "new")}


def test_done_trials_are_reused_and_missing_measurements_are_due(store, plan, tmp_path) -> None:
    made = plan()
    left_by_training(tmp_path)
    ended(store, made, "done", "weights")
    assert reasons(store, made, tmp_path) == {(False, "same description, data and source")}
    decision, _ = Reuse(store, tmp_path, None).trials(made.trials)
    assert decision.due == made.trials[0].suites


def test_a_training_whose_weights_are_gone_is_repeated(store, plan, tmp_path) -> None:
    made = plan()
    ended(store, made, "done", "weights")
    expected = {(True, "its checkpoint is gone, and a suite needs it")}
    assert reasons(store, made, tmp_path) == expected
    left_by_training(tmp_path)
    (tmp_path / "first").unlink()
    expected = {(True, "its snapshot first is gone, and a suite needs it")}
    assert reasons(store, made, tmp_path) == expected
    (tmp_path / "outcome.json").unlink()
    ((train, reason),) = reasons(store, made, tmp_path)
    assert train
    assert reason.endswith("holds no finished training: there is no outcome.json")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("failed", (False, "it failed: why it did; --retry failed tries again")),
        ("running", (True, "continues an interrupted attempt")),
    ],
)
def test_the_status_of_the_last_attempt_decides(store, plan, status, reason) -> None:
    made = plan()
    ended(store, made, status)
    assert reasons(store, made) == {reason}


def test_changed_code_is_named(store: Store, plan, monkeypatch) -> None:
    made = plan()
    ended(store, made, "done")
    monkeypatch.setattr(fingerprint, "combined", lambda hashes: f"changed {len(hashes)}")
    stale = reasons(store, plan(routers=["dense"]))
    parts = "router 'dense', protocol 'training', model 'vit_tiny_patch16_224'"
    assert stale == {(True, f"changed source: {parts}")}


def test_differences_name_each_changed_part_and_setting(store: Store, plan) -> None:
    made = plan()
    record_plan(made, store)
    then = store.all_trials()[0]
    now = made.trials[0].fingerprint
    assert differences(now, then) == []
    description = {**now.description, "seed": 7}
    parts = [part for part in now.parts if part.kind not in ("data", "loss")]
    parts += [Part("data", "digits", "other"), Part("loss", "z", "code")]
    assert differences(Fingerprint(description, tuple(parts)), then) == [
        "seed is 7, was 0",
        "changed data: 'digits'",
        "new: loss 'z'",
        "gone: loss 'importance'",
    ]


def test_the_shape_of_known_data_sets_is_known_without_loading_them(tmp_path: Path) -> None:
    here, dataset = load_with_shape(DataConfig(name="digits"), Datasets())
    assert (here.image_shape, here.num_classes) == ((1, 8, 8), 10)
    assert dataset is not None
    assert here.num_samples == len(dataset.splits["train"])
    absent = DataConfig(name="timm:torch/imagenet", data_dir=str(tmp_path), image_size=256)
    expected, nothing = load_with_shape(absent, Datasets())
    assert (expected.image_shape, expected.num_classes) == ((3, 256, 256), 1000)
    assert nothing is None
    with pytest.raises(RequestError, match="digit"):
        load_with_shape(DataConfig(name="digit"), Datasets())
    assert "fashion_mnist" in KNOWN_SHAPES
