"""Routings with known answers: what suites must measure can be worked out by hand.

Each routes IMAGES images of TOKENS tokens to EXPERTS experts, with two images per group and half
of the images per batch, so that groups, batches and images differ in size.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from routers import build_router
from routers.errors import BenchError
from routers.routing import Routing, TokenChoiceRouting
from suites.support.base import Metric, build_suite
from suites.support.subject import Observed, Snapshot, by_image

IMAGES, TOKENS, EXPERTS, CLASSES = 32, 8, 4, 8
GROUP = 2 * TOKENS


def choose(gates: Tensor, experts: Tensor, capacity: int | None) -> Routing:
    """Route each token, with gates (images, TOKENS, EXPERTS), to one expert, (images, TOKENS) long.

    Groups are two images, for which each expert has `capacity` slots; None drops nothing.
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


@dataclass(frozen=True, eq=False)
class KnownRouting:
    """A routing whose metrics are known.

    Attributes:
        labels: (IMAGES,) long.
        route: labels of a batch -> its routing.
        answers: the values that a suite must measure at every layer and as their mean, by metric;
            keyed by the suite, followed by `of` and `kind` of the metrics' `where`.
    """

    name: str
    labels: Tensor
    route: Callable[[Tensor], Routing]
    answers: dict[str, dict[str, float]]


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


def _spread(values: dict[str, float]) -> dict[str, float]:
    """Return the statistics of both demand and load."""
    return {f"{of}_{name}": value for of in ("demand", "load") for name, value in values.items()}


ROUTINGS = (
    KnownRouting(
        "uniform",
        LABELS,
        uniform,
        {
            "balance": _spread(EVEN)
            | {"dropped": 0, "uncovered": 0, "importance_cv": 0, "capacity": GROUP / EXPERTS},
            "entropy gates soft": {
                "H_s": BITS,
                "H_u": BITS,
                "MI_label": 0,
                "MI_label_corrected": 0,
            },
            "entropy combine soft": {"H_s": 0, "H_u": BITS, "MI_label": 0, "MI_label_corrected": 0},
            "specialization": {
                # Without any one of them class 0 is lost and class 1 won.
                **{"polysemanticity": math.sqrt(2 - math.sqrt(2)), "experts_with_effect": 1},
                **{"largest_drop": 1, "accuracy_drop": 0, "passes": 1},
            },
        },
    ),
    KnownRouting(
        "collapsed",
        LABELS,
        collapsed,
        {
            "balance": _spread(ONE_EXPERT)
            | {"dropped": LOST, "uncovered": LOST, "experts_per_token_mean": 1 - LOST},
            "entropy gates soft": {"H_s": 0, "H_u": 0, "MI_label": 0},
            "entropy combine hard": {"H_u": 0, "MI_label": 0},
            "entropy combine": {"left_out": LOST},
            "specialization": {
                # The first image of a pair fills expert 0: class 0 is lost, class 1 never used it.
                **{"polysemanticity": 0, "experts_with_effect": 1 / EXPERTS, "largest_drop": 1},
                **{"accuracy_drop": 1 / CLASSES / EXPERTS, "passes": 1 / EXPERTS},
            },
        },
    ),
    KnownRouting(
        "oracle",
        LABELS,
        oracle,
        {
            "balance": {"load_cv": 0, "dropped": 0, "uncovered": 0, "experts_per_token_mean": 1},
            "entropy gates soft": {"H_s": 0, "H_u": BITS, "MI_label": BITS, "MI_prediction": 0},
            "entropy combine hard": {"H_u": BITS, "MI_label": BITS, "MI_label_normalised": 1},
            "specialization": {
                # Without expert 0 class 0 is lost; without expert 1 class 1 is won.
                **{"polysemanticity": math.sqrt(2) / 2, "experts_with_effect": 2 / EXPERTS},
                **{"largest_drop": 0.5, "accuracy_drop": 0, "passes": 1},
            },
        },
    ),
    # If each image has its own class, a permutation changes nothing: all that the plain mutual
    # information shows is bias.
    KnownRouting(
        "oracle of single images",
        torch.arange(IMAGES),
        oracle,
        {
            "entropy gates hard": {"MI_label": BITS, "MI_label_corrected": 0},
            "entropy combine soft": {"MI_label": BITS, "MI_label_corrected": 0},
        },
    ),
)


class KnownSubject:
    """A trial, as far as suites about routing read it, with two MoE layers of the known routing.

    It answers 0, or 1 if an expert that processes a token of the image is switched off.
    """

    snapshots: tuple[Snapshot, ...] = ()

    def __init__(self, case: KnownRouting) -> None:
        self.case = case
        routers = [build_router("hash", dim=1, num_experts=EXPERTS) for _ in range(2)]
        self.model: nn.Module = nn.ModuleList(routers)
        self.num_classes = int(case.labels.max()) + 1
        self.class_names = [str(index) for index in range(self.num_classes)]

    def start(self) -> nn.Module:
        """Return the model, which has routed the same way from the start."""
        return self.model

    def run(self, model: nn.Module, split: str) -> Iterator[Observed]:
        """Yield both halves of the images, whatever the split."""
        for labels in self.case.labels.split(IMAGES // 2):
            routing = self.case.route(labels)
            images = labels.view(-1, 1, 1, 1).float()
            logits = self.answers(model, images, {})
            yield Observed(images, labels, logits, [routing, routing])

    def answers(self, model: nn.Module, images: Tensor, factors: Mapping[int, Tensor]) -> Tensor:
        """Return the answers to images whose only pixel is their label."""
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
        suites = {place.split()[0] for place in case.answers}
        measured = {name: [*build_suite(name).measure(KnownSubject(case))] for name in suites}
        for place, answers in case.answers.items():
            suite, *rest = place.split()
            where = dict(zip(("of", "kind"), rest, strict=False))
            own = [m for m in measured[suite] if isinstance(m, Metric) and m.where == where]
            metrics = [metric for metric in own if metric.step is None]  # at the end
            about = f"self-test: of the {case.name} routing, suite {suite!r}"
            at = "".join(f", {key} {value}" for key, value in where.items())
            for name, value in answers.items():
                _compare([m for m in metrics if m.name == name], name, value, about, at)
    return sum(len(answers) for case in ROUTINGS for answers in case.answers.values())


def _compare(metrics: list[Metric], name: str, expected: float, about: str, at: str) -> None:
    """Refuse metrics that lack a layer or the mean, or that differ from the expected value."""
    if {metric.layer for metric in metrics} != {0, 1, None}:
        raise BenchError(
            f"{about} does not measure {name}{at} at both layers and as their mean; "
            f"expected {expected:.6g}"
        )
    for metric in metrics:
        if not abs(metric.value - expected) <= TOLERANCE:
            layer = "the mean over layers" if metric.layer is None else f"layer {metric.layer}"
            raise BenchError(
                f"{about} measures {name} = {metric.value:.6g} ({layer}{at}); "
                f"expected {expected:.6g}"
            )
