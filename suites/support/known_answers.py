"""Routings with known answers: what suites must measure of them follows by hand.

Each routes IMAGES images of TOKENS tokens to EXPERTS experts, two images to a group and half of
the images to a batch, so that groups, batches and images differ in size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from routers.errors import BenchError
from routers.routing import Routing, TokenChoiceRouting
from suites.support.base import Array, Metric, build_suite
from suites.support.subject import Observed, Snapshot, by_image

IMAGES, TOKENS, EXPERTS, CLASSES = 32, 8, 4, 8
GROUP = 2 * TOKENS


def choose(gates: Tensor, experts: Tensor, capacity: int | None) -> Routing:
    """Route each token to one expert, in groups of two images.

    Args:
        gates: (images, TOKENS, EXPERTS).
        experts: (images, TOKENS) long.
        capacity: slots of each expert in a group; None drops nothing.
    """
    gates, experts = gates.view(-1, GROUP, EXPERTS), experts.reshape(-1, GROUP, 1)
    return TokenChoiceRouting.from_choices(gates, experts, gates.gather(-1, experts), capacity)


def uniform(labels: Tensor) -> Routing:
    """Route the tokens of each image to all experts in turn, with undecided gates."""
    gates = torch.full((len(labels), TOKENS, EXPERTS), 1 / EXPERTS)
    experts = (torch.arange(TOKENS) % EXPERTS).expand(len(labels), TOKENS)
    return choose(gates, experts, capacity=GROUP // EXPERTS)


def collapsed(labels: Tensor) -> Routing:
    """Route every token to expert 0, which has its even share of slots."""
    experts = torch.zeros(len(labels), TOKENS, dtype=torch.long)
    return choose(one_hot(experts, EXPERTS).float(), experts, capacity=GROUP // EXPERTS)


def oracle(labels: Tensor) -> Routing:
    """Route every token to expert `label mod E`."""
    experts = (labels % EXPERTS).unsqueeze(1).expand(-1, TOKENS)
    return choose(one_hot(experts, EXPERTS).float(), experts, capacity=None)


@dataclass(frozen=True)
class Answer:
    """The value that a suite must measure, at every layer and as their mean."""

    suite: str
    metric: str
    value: float
    where: dict[str, str] = field(default_factory=dict)


def _answers(suite: str, *place: str, **values: float) -> tuple[Answer, ...]:
    """Return values by metric, at a `where` of "of" and "kind"."""
    where = dict(zip(("of", "kind"), place, strict=False))
    return tuple(Answer(suite, name, value, where) for name, value in values.items())


_balance = partial(_answers, "balance")
_entropy = partial(_answers, "entropy")
_specialization = partial(_answers, "specialization")


@dataclass(frozen=True, eq=False)
class KnownRouting:
    """A routing whose metrics are known.

    Attributes:
        labels: (IMAGES,) long.
        route: labels of a batch -> its routing.
    """

    name: str
    labels: Tensor
    route: Callable[[Tensor], Routing]
    answers: tuple[Answer, ...]


EVEN = {"cv": 0.0, "max_over_mean": 1.0, "gini": 0.0, "entropy": 1.0, "dead": 0.0}
ONE_EXPERT = {
    "cv": math.sqrt(EXPERTS - 1),
    "max_over_mean": float(EXPERTS),
    "gini": (EXPERTS - 1) / EXPERTS,
    "entropy": 0.0,
    "dead": EXPERTS - 1.0,
}
LOST = 1 - 1 / EXPERTS
BITS = math.log2(EXPERTS)
LABELS = torch.arange(IMAGES) % CLASSES

ROUTINGS = (
    KnownRouting(
        "uniform",
        LABELS,
        uniform,
        (
            *_balance(**{f"demand_{name}": value for name, value in EVEN.items()}),
            *_balance(**{f"load_{name}": value for name, value in EVEN.items()}),
            *_balance(dropped=0, uncovered=0, importance_cv=0, capacity=GROUP / EXPERTS),
            *_answers(
                "entropy", "gates", "soft", H_s=BITS, H_u=BITS, MI_label=0, MI_label_corrected=0
            ),
            *_answers(
                "entropy", "combine", "soft", H_s=0, H_u=BITS, MI_label=0, MI_label_corrected=0
            ),
            # Without any of them class 0 is lost and class 1 won.
            *_answers(
                "specialization", polysemanticity=math.sqrt(2 - math.sqrt(2)), experts_with_effect=1
            ),
            *_specialization(largest_drop=1, accuracy_drop=0, passes=1),
        ),
    ),
    KnownRouting(
        "collapsed",
        LABELS,
        collapsed,
        (
            *_balance(**{f"demand_{name}": value for name, value in ONE_EXPERT.items()}),
            *_balance(**{f"load_{name}": value for name, value in ONE_EXPERT.items()}),
            *_balance(dropped=LOST, uncovered=LOST, experts_per_token_mean=1 - LOST),
            *_entropy("gates", "soft", H_s=0, H_u=0, MI_label=0, MI_label_normalised=0),
            *_entropy("combine", "hard", H_u=0, MI_label=0, MI_label_normalised=0),
            *_entropy("combine", left_out=LOST),
            # The first image of each pair fills expert 0: class 0 is lost, class 1 never had it.
            *_answers(
                "specialization", polysemanticity=0, experts_with_effect=1 / EXPERTS, largest_drop=1
            ),
            *_specialization(accuracy_drop=1 / CLASSES / EXPERTS, passes=1 / EXPERTS),
        ),
    ),
    KnownRouting(
        "oracle",
        LABELS,
        oracle,
        (
            *_balance(load_cv=0, dropped=0, uncovered=0, experts_per_token_mean=1),
            *_entropy("gates", "soft", H_s=0, H_u=BITS, MI_label=BITS, MI_prediction=0),
            *_entropy("combine", "hard", H_u=BITS, MI_label=BITS, MI_prediction=0),
            # Without expert 0 class 0 is lost; without expert 1 class 1 is won.
            *_answers(
                "specialization", polysemanticity=math.sqrt(2) / 2, experts_with_effect=2 / EXPERTS
            ),
            *_specialization(largest_drop=0.5, accuracy_drop=0, passes=1),
        ),
    ),
    # With a class of its own for each image a permutation changes nothing: all that the plain
    # mutual information shows is bias.
    KnownRouting(
        "oracle of single images",
        torch.arange(IMAGES),
        oracle,
        (
            *_entropy("gates", "hard", MI_label=BITS, MI_label_corrected=0),
            *_entropy("combine", "soft", MI_label=BITS, MI_label_normalised=0),
        ),
    ),
)


class KnownSubject:
    """A trial, as far as suites on routing read it, with two MoE layers of the known routing.

    It answers 0; but 1 where an expert that processes a token of the image is switched off.
    """

    snapshots: tuple[Snapshot, ...] = ()

    def __init__(self, case: KnownRouting) -> None:
        self.case = case
        self.model: nn.Module = nn.Identity()
        self.num_classes = int(case.labels.max()) + 1
        self.class_names = [str(index) for index in range(self.num_classes)]

    def run(self, model: nn.Module, split: str) -> Iterator[Observed]:
        """Yield both halves of the images, whatever the split."""
        for labels in self.case.labels.split(IMAGES // 2):
            routing = self.case.route(labels)
            images = labels.view(-1, 1, 1, 1).float()
            logits = self.answers(model, images, {})
            yield Observed(images, labels, logits, [routing, routing])

    def answers(self, model: nn.Module, images: Tensor, factors: Mapping[int, Tensor]) -> Tensor:
        """Answer images, each of which has its label as its only pixel."""
        weights = self.case.route(images.flatten().long()).combine_weights()
        of_image = by_image(weights, len(images)).sum(1)
        off = sum((of_image @ (factor == 0).float() for factor in factors.values()), torch.zeros(1))
        return one_hot((off > 0).long().expand(len(images)), self.num_classes).float()


TOLERANCE = 1e-6


def self_test() -> int:
    """Measure the known routings with the suites, and compare.

    Returns:
        The number of answers that were checked.

    Raises:
        BenchError: a suite measures another value; the message names the metric and both values.
    """
    for case in ROUTINGS:
        measured = {
            suite: [*build_suite(suite).measure(KnownSubject(case))]
            for suite in sorted({answer.suite for answer in case.answers})
        }
        for answer in case.answers:
            _compare(case, answer, measured[answer.suite])
    return sum(len(case.answers) for case in ROUTINGS)


def _compare(case: KnownRouting, answer: Answer, results: list[Metric | Array]) -> None:
    metrics = [result for result in results if isinstance(result, Metric)]
    same = [m for m in metrics if (m.name, m.where) == (answer.metric, answer.where)]
    where = "".join(f", {key} {value}" for key, value in answer.where.items())
    about = f"self-test: of the {case.name} routing, suite {answer.suite!r}"
    if {metric.layer for metric in same} != {0, 1, None}:
        raise BenchError(
            f"{about} does not measure {answer.metric}{where} at both layers and as their mean; "
            f"expected {answer.value:.6g}"
        )
    for metric in same:
        if not abs(metric.value - answer.value) <= TOLERANCE:
            at = "the mean over layers" if metric.layer is None else f"layer {metric.layer}"
            raise BenchError(
                f"{about} measures {answer.metric} = {metric.value:.6g} ({at}{where}); "
                f"expected {answer.value:.6g}"
            )
