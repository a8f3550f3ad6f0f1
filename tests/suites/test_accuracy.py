from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from routers import build_router
from suites import HistoryPoint, Metric, Observed, build_suite
from suites.accuracy import calibration_error

CLASSES = 9


class Answers:
    """A trial whose model gives fixed logits, in batches of 16."""

    model = None
    history = (
        HistoryPoint(10, 1e9, 2.5, "val", "val_top1", 0.4),
        HistoryPoint(10, 1e9, 2.5, "train", "train_loss", 1.5),
        HistoryPoint(10, 1e9, 2.5, "train", "learning_rate", 1e-3),
    )

    def __init__(self, logits, labels, stats=None):
        self.logits, self.labels, self.stats = logits, labels, stats or {}
        self.num_classes = logits.shape[1]

    def run(self, model, split, batch_size=None):
        assert split == "test"
        for logits, labels in zip(self.logits.split(16), self.labels.split(16), strict=True):
            yield Observed(torch.zeros(len(labels)), labels, logits, [])


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(50) % CLASSES
    logits = torch.randn(50, CLASSES, generator=generator)
    logits[torch.arange(50), labels] += 1.5
    return Answers(logits, labels, {"train_flops": 1.02e12, "flops_budget": 1e12, "steps": 30})


def measured(subject):
    return {m.name: m for m in build_suite("accuracy").measure(subject)}


def test_accuracy_agrees_with_scikit_learn(answers):
    got = measured(answers)
    probabilities = answers.logits.double().softmax(-1).numpy()
    labels, classes = answers.labels.numpy(), range(CLASSES)
    assert got["top1"].value == accuracy_score(labels, probabilities.argmax(1))
    top5 = top_k_accuracy_score(labels, probabilities, k=5, labels=classes)
    assert got["top5"].value == pytest.approx(top5)
    assert got["nll"].value == pytest.approx(log_loss(labels, probabilities, labels=classes))
    assert {got[name].split for name in ("top1", "top5", "nll", "ece")} == {"test"}


def test_calibration_error_equals_its_definition(answers):
    confidence, answer = answers.logits.double().softmax(-1).max(-1)
    right = (answer == answers.labels).double()
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            expected += float(inside.double().mean() * gap)
    assert measured(answers)["ece"].value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("confidence", "right", "expected"),
    [(0.8, [1, 1, 1, 1, 0], 0.0), (0.75, [1, 1, 1, 1], 0.25), (0.9, [0, 0], 0.9)],
)
def test_calibration_error_of_one_bin_by_hand(confidence, right, expected):
    logits = torch.tensor([[confidence, 1 - confidence]]).log().expand(len(right), 2)
    assert calibration_error(logits, 1 - torch.tensor(right)) == pytest.approx(expected, abs=1e-6)


def test_total_certainty_falls_into_the_last_bin():
    logits = torch.tensor([[1000.0, -1000.0]])
    assert calibration_error(logits, torch.tensor([0])) == 0.0
    assert calibration_error(logits, torch.tensor([1])) == 1.0


def test_top5_is_not_measured_for_five_classes():
    few = Answers(torch.randn(20, 5), torch.arange(20) % 5)
    assert "top5" not in measured(few)


def test_points_of_curves_state_the_compute_spent(answers):
    got = measured(answers)
    where = {"flops": 1e9, "seconds": 2.5}
    assert got["val_top1"] == Metric("val_top1", 0.4, step=10, split="val", where=where)
    assert got["train_loss"] == Metric("train_loss", 1.5, step=10, split="train", where=where)
    assert "learning_rate" not in got


def test_model_stats_and_the_deviation_from_the_budget_are_measured(answers):
    got = measured(answers)
    assert got["steps"] == Metric("steps", 30.0)
    assert got["flops_error"].value == pytest.approx(0.02)
    assert "params_total" not in got


class OneGroup(torch.nn.Module):
    """A model that routes all tokens of a batch together, and answers by an image's mean output."""

    def __init__(self, router):
        super().__init__()
        self.router = router

    def forward(self, images):
        tokens = images.flatten(0, 2).unsqueeze(0)
        routing = self.router(tokens)
        return routing.combine(routing.dispatch(tokens)).view_as(images).mean((1, 2))


@pytest.mark.parametrize(
    ("options", "depends"), [({}, 1.0), ({"evaluation": "threshold"}, 0.0)], ids=["group", "own"]
)
def test_dependence_of_answers_on_the_batch_is_detected(options, depends, trial):
    subject = trial("softmax_expert_choice")
    assert measured(subject)["depends_on_batch"].value == 0
    dim = subject.images.shape[-1]
    router = build_router("softmax_expert_choice", dim=dim, num_experts=4, **options).eval()
    if options:
        router.threshold.fill_(0.25)
        router.updates.fill_(10**6)
    subject.model, subject.num_classes = OneGroup(router), dim
    subject.labels = subject.labels % dim
    assert measured(subject)["depends_on_batch"].value == depends


def test_a_model_without_routing_does_not_depend_on_the_batch(trial):
    assert "depends_on_batch" not in measured(trial("dense"))
