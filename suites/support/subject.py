"""The subjects of suites, provided by the engine, which suites do not import."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from routers.errors import BenchError
from routers.router import Router
from routers.routing import Routing


@dataclass(frozen=True, eq=False)
class Observed:
    """One batch as processed by a model in eval mode, without gradients.

    Attributes:
        images: (n, c, h, w) float, normalised.
        labels: (n,) long.
        logits: (n, classes) float.
        routings: one for each MoE layer, in network order. Their groups hold the batch's tokens
            in order: all tokens of the first image, then of the second, …
    """

    images: Tensor
    labels: Tensor
    logits: Tensor
    routings: list[Routing]

    @property
    def within_images(self) -> bool:
        """Whether no group of any layer holds tokens of two images."""
        return all(routing.gates.shape[0] % len(self.labels) == 0 for routing in self.routings)


@dataclass(frozen=True)
class HistoryPoint:
    """A value measured during training: `val_top1`, `val_loss` or `train_loss`, by `name`.

    Attributes:
        step: optimiser steps done.
        flops, seconds: those of training until then, without evaluations.
        split: "train" or "val".
    """

    step: int
    flops: float
    seconds: float
    split: str
    name: str
    value: float


class Snapshot(Protocol):
    """The model at one step of its training; `flops` and `seconds` are as in the history."""

    step: int
    flops: float
    seconds: float

    def load(self) -> nn.Module:
        """Return the model with the weights of that step, in eval mode, on the subject's device."""


class TrialSubject(Protocol):
    """A trained trial, as suites measure it; they set none of its attributes.

    Attributes:
        num_experts: number of experts in each MoE layer; for a dense model, that of the MoE with
            which it is compared.
        attribute_names: names of the protected attribute's values; empty if the data has none.
        model: the model with its final weights, in eval mode, on `device`.
        has_features: whether the model has pooled features before its classifier.
        derived: whether it started from another trained trial, its parent.
        snapshots: snapshots of the training, in order, the initial weights first.
        history: losses and accuracies during training.
        stats: single numbers about training: `steps`, `train_flops`, `flops_budget`, `budget`,
            `train_seconds`, `params_total`, `params_active`, `flops_per_image`, …
    """

    device: torch.device
    num_classes: int
    class_names: Sequence[str]
    num_experts: int
    attribute_names: Sequence[str]
    model: nn.Module
    has_features: bool
    derived: bool
    snapshots: Sequence[Snapshot]
    history: Sequence[HistoryPoint]
    stats: Mapping[str, float]

    def run(
        self,
        model: nn.Module,
        split: str,
        batch_size: int | None = None,
        places: Tensor | None = None,
    ) -> Iterator[Observed]:
        """Run the model on every image of a split, in a fixed order, batch by batch.

        Args:
            places: (k,) long, on the CPU; only the images there are run, in this order, as if the
                split had no others.
        """

    def labels_of(self, split: str) -> Tensor:
        """Return the class of each image of a split, in the order of `run`: (n,) long, CPU."""

    def start(self) -> nn.Module:
        """Return the model as it was before its first step, in eval mode, on `device`.

        Raises:
            UndefinedError: it was derived, and its first weights were not kept.
        """

    def attribute(self, split: str) -> Tensor | None:
        """Return the protected attribute's value of each image of a split, in the order of `run`.

        Returns:
            (n,) long, on the CPU; None if the data has no such attribute.
        """

    def features(self, data: str, split: str) -> tuple[Tensor, Tensor]:
        """Compute the final model's pooled features of another data set, in one pass.

        Its images are resized to the model's image size, and normalised in the same way.

        Returns:
            (n, d) float, before the classifier, and (n,) long, the labels, both on the CPU.

        Raises:
            RequestError: there is no such data set, or its images have other channels.
        """

    def pruned(self, rule: str, experts: int, seed: int = 0) -> nn.Module:
        """Build the final model with that many experts in each layer, in eval mode, on `device`.

        Args:
            rule: the name of the transform that keeps or merges them, on validation images.
            seed: seed of what the rule draws.

        Raises:
            UndefinedError: the rule, or pruning, is undefined for the model.
        """

    def flops_per_image(self, model: nn.Module) -> float:
        """Return the FLOPs of one image, forward, in eval mode."""

    def answers(self, model: nn.Module, images: Tensor, factors: Mapping[int, Tensor]) -> Tensor:
        """Compute the model's logits with the combine weights of some experts multiplied.

        Args:
            model: the model, in eval mode.
            images: (n, c, h, w) float, normalised; a batch of `run`, or a part of one if groups
                are images.
            factors: (E,) float by the MoE layer's index in network order; 0 switches an expert off.

        Returns:
            (n, classes) float.
        """


class LayerSubject(Protocol):
    """Ways to build a bare layer or an untrained model of one router.

    Attributes:
        replaces_mlps: whether the model's experts stand in for MLPs, as in bare layers.
        image_shape: (c, h, w) of the model's images.
        tokens, dim: number and width of an image's tokens, in the model.
        hidden: width of an expert's hidden layer, in the model.
    """

    device: torch.device
    replaces_mlps: bool
    router_name: str
    image_shape: tuple[int, int, int]
    tokens: int
    dim: int
    hidden: int
    num_experts: int

    def layer(self, batch: int, tokens: int, dim: int, hidden: int, num_experts: int) -> nn.Module:
        """Build the router's MoE layer, or the baseline's MLP: (batch, tokens, dim) to the same."""

    def mlp(self, dim: int, hidden: int) -> nn.Module:
        """Build a dense MLP of the same kind as one expert: (…, dim) to the same."""

    def dense_rows(self, layer: nn.Module, mlp: nn.Module, x: Tensor) -> int:
        """Return the rows on which a dense MLP runs the FLOPs of a layer's experts.

        Args:
            layer: the layer, in the mode that is timed, since capacity may depend on it.
            mlp: an MLP of one expert's shape.
            x: (batch, tokens, dim), the layer's input.
        """

    def model(self) -> nn.Module:
        """Build the whole model, untrained: (n, c, h, w) to (n, classes)."""

    def dense_model(self) -> nn.Module:
        """Build the model without MoE layers, untrained."""


def routers_of(module: nn.Module) -> list[Router]:
    """Return the routers inside a layer or model, in network order; none if it is dense."""
    return [part for part in module.modules() if isinstance(part, Router)]


def why_not_routed(model: nn.Module) -> str | None:
    """Return why suites about routing have nothing to measure, or None if they have."""
    return None if routers_of(model) else "the model has no MoE layer"


def chosen_experts_answers(subject: TrialSubject, batch: Observed) -> Tensor:
    """Return the class that each image's chosen expert predicts by itself: (n,) long.

    The chosen expert has the largest combine weight; ties go to the first. The model's only MoE
    layer produces the answers, and an image is one token there.

    Raises:
        BenchError: an image has several tokens there, which may choose different experts.
    """
    (routing,) = batch.routings
    weights = by_image(routing.combine_weights(), len(batch.labels))
    if weights.shape[1] != 1:
        raise BenchError(
            f"no one expert predicts the class of an image of {weights.shape[1]} tokens: choose "
            "prediction = 'model'"
        )
    chosen, answers = weights[:, 0].argmax(-1), batch.logits.argmax(-1)
    for expert in chosen.unique().tolist():
        alone = torch.eye(weights.shape[2])[expert]
        own = subject.answers(subject.model, batch.images, {0: alone}).argmax(-1)
        answers = torch.where(chosen == expert, own, answers)
    return answers


def by_image(weights: Tensor, images: int) -> Tensor:
    """Group the weights of tokens by image: (g, t, E) -> (images, tokens of an image, E).

    Raises:
        BenchError: the tokens do not divide evenly among the images.
    """
    tokens = weights.shape[:2].numel()
    if tokens % images:
        raise BenchError(f"a routing of {tokens} tokens does not divide over {images} images")
    return weights.reshape(images, -1, weights.shape[-1])
