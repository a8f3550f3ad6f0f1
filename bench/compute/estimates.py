"""The cost of a training run, estimated from shapes alone: without data, weights or a device.

Everything runs on torch's fake tensors, which have a shape but no values. They run the operations
of a CPU, so the FLOPs are those of training on one.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from bench.compute.budget import (
    Budget,
    Cost,
    expert_stats,
    match_compute,
    parameters_of,
    trial_flops,
)
from bench.compute.flops import FlopCounter
from bench.config import TrialSpec
from bench.data import DataShape
from bench.model import Objective, Parent, seeded, starting_model, trial_model
from suites.support.timing import kept_for_backward


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of one trial.

    Attributes:
        budget: the trial's steps and FLOPs.
        exact: whether every step takes these FLOPs. If not, the router's work depends on the data:
            its conditions were taken to be false, or it ran on a few images of noise.
        parameters: number of parameters of the model.
        training_bytes: weights, gradients, AdamW's two moments, and what a step keeps for its
            backward pass. The actual peak is somewhat higher.
        checkpoint_bytes: size of one snapshot on disk.
        expert_stats: the result of the function `expert_stats`.
    """

    budget: Budget
    exact: bool
    parameters: int
    training_bytes: int
    checkpoint_bytes: int
    expert_stats: dict[str, float]


@dataclass(frozen=True)
class _Step:
    """The FLOPs of a step, and the bytes that it keeps for its backward pass."""

    flops: float
    kept_bytes: float
    exact: bool


def estimate(spec: TrialSpec, data: DataShape, parent_data: DataShape | None = None) -> Estimate:
    """Estimate the cost of a trial from the shape of its data and of its parent's, if it has one.

    Raises:
        RequestError: the model, the router or the recipe does not exist or is invalid.
    """
    budget = match_compute(spec, data.num_samples, lambda of: cost_of(of, data, parent_data))
    arguments = _cached_arguments(spec, data, parent_data)
    own, model = _step(*arguments), _shapes(*arguments)
    train = spec.train
    largest = -(-train.batch_size // (train.ranks * train.micro_batches))  # of a batch's parts
    kept = own.kept_bytes / train.batch_size
    weights = list(model.parameters())
    trained = sum(weight.nbytes for weight in weights if weight.requires_grad)
    return Estimate(
        budget,
        own.exact,
        parameters=parameters_of(model),
        training_bytes=sum(w.nbytes for w in weights) + 3 * trained + round(largest * kept),
        checkpoint_bytes=sum(tensor.nbytes for tensor in model.state_dict().values()),
        expert_stats=expert_stats(model),
    )


def cost_of(spec: TrialSpec, data: DataShape, parent_data: DataShape | None = None) -> Cost:
    """Estimate the cost of a trial's model; takes the arguments of `estimate`."""
    arguments = _cached_arguments(spec, data, parent_data)
    return Cost(_step(*arguments).flops, parameters_of(_shapes(*arguments)))


def _cached_arguments(
    spec: TrialSpec, data: DataShape, parent_data: DataShape | None
) -> tuple[str, DataShape, DataShape | None]:
    return spec.with_seed(0).model_dump_json(), data, parent_data if spec.parent else None


@lru_cache(maxsize=1)
def _shapes(description: str, data: DataShape, parent_data: DataShape | None) -> nn.Module:
    """Build the model without memory for its weights; cached, since it takes half a step's time."""
    with torch.device("meta"):
        return _start(TrialSpec.model_validate_json(description), data, parent_data)


def _start(spec: TrialSpec, data: DataShape, parent_data: DataShape | None) -> nn.Module:
    """Build the model to train, from an untrained parent if it has one."""
    if spec.parent is None or parent_data is None:
        return starting_model(spec, data, None)
    return starting_model(spec, data, Parent(trial_model(spec.parent, parent_data)))


@lru_cache(maxsize=64)
def _step(description: str, data: DataShape, parent_data: DataShape | None) -> _Step:
    """Count one step of the trial with this JSON description; the dense model's count is shared."""
    spec = TrialSpec.model_validate_json(description)
    model = deepcopy(_shapes(description, data, parent_data))
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), _AnswerFalse() as answers:
            fake = model.to_empty(device="cpu")
            whole = _count(spec, data, fake, spec.train.batch_size)
            return replace(whole, exact=not answers.asked)
    except DataDependentOutputException:
        real = _start(spec, data, parent_data)
        # A whole batch is extrapolated from batches of one and two images of noise. The noise is
        # fixed, since the widths solved from it are part of what identifies trials.
        with seeded(0):
            one = _count(spec, data, real, 1)
        with seeded(0):
            two = _count(spec, data, real, 2)
        more = spec.train.batch_size - 1
        return _Step(
            one.flops + more * (two.flops - one.flops),
            one.kept_bytes + more * (two.kept_bytes - one.kept_bytes),
            exact=False,
        )


class _AnswerFalse(TorchDispatchMode):
    """A mode in which every condition on a fake tensor, which has no values, is false."""

    asked = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            self.asked = True
            return False
        return func(*args, **(kwargs or {}))


def _count(spec: TrialSpec, data: DataShape, model: nn.Module, images: int) -> _Step:
    batch = torch.randn(images, *data.image_shape)
    labels = torch.zeros(images, dtype=torch.long)
    model.zero_grad()
    with FlopCounter() as counter, kept_for_backward(model) as kept:
        Objective(spec.train)(model.train(), batch, labels, step=0).total.backward()
    flops = counter.total + trial_flops(model, batch, labels, spec.train)
    return _Step(flops, sum(kept.values()), exact=True)
