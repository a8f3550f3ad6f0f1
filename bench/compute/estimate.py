"""What a training would take, from shapes alone: no data, no weights, no device.

Everything runs on torch's fake tensors, which know their shape and hold nothing. They go the way
that a CPU goes, so the FLOPs are those of a training there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from bench.compute.budget import Budget, count_step, match_compute
from bench.config import RouterConfig, TrialSpec
from bench.objective import Objective
from bench.trial_model import ExpectedData, trial_model

SAMPLE = 2
"""Images that stand for a batch where the work depends on the data."""


@dataclass(frozen=True)
class Estimate:
    """Of one trial.

    Attributes:
        budget: its steps and FLOPs.
        exact: whether every step takes these FLOPs; else they are scaled up from a few images
            of noise, since what the router does depends on the data.
        parameters: of the model.
        training_bytes: weights, gradients, AdamW's two moments, and what a step keeps for its
            backward pass. The peak is somewhat above.
        checkpoint_bytes: of one snapshot.
    """

    budget: Budget
    exact: bool
    parameters: int
    training_bytes: int
    checkpoint_bytes: int


@dataclass(frozen=True)
class _Step:
    flops: float
    kept_bytes: int
    exact: bool


def estimate(spec: TrialSpec, data: ExpectedData) -> Estimate:
    """What a trial takes.

    Args:
        spec: the trial.
        data: what it is trained on; it need not be there.

    Raises:
        RequestError: the model, the router or the recipe does not exist or fit.
    """
    steps: dict[str, _Step] = {}

    def flops_of_step(router: RouterConfig) -> float:
        steps[router.name] = _step(spec, data, router)
        return steps[router.name].flops

    budget = match_compute(spec, data.num_samples, flops_of_step)
    own = steps[spec.router.name]
    model = _shapes(spec, data, spec.router)
    weights = [*model.parameters()]
    state = sum(tensor.nbytes for tensor in model.state_dict().values())
    return Estimate(
        budget,
        own.exact,
        parameters=sum(weight.numel() for weight in weights),
        training_bytes=4 * sum(weight.nbytes for weight in weights) + own.kept_bytes,
        checkpoint_bytes=state,
    )


def _shapes(spec: TrialSpec, data: ExpectedData, router: RouterConfig) -> nn.Module:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return trial_model(spec, data, router=router)


def _step(spec: TrialSpec, data: ExpectedData, router: RouterConfig) -> _Step:
    model = _shapes(spec, data, router)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _count(spec, data, model.to_empty(device="cpu"), spec.train.batch_size)
    except DataDependentOutputException:
        few = min(SAMPLE, spec.train.batch_size)
        seen = _count(spec, data, trial_model(spec, data, router=router), few)
        scale = spec.train.batch_size / few
        return _Step(seen.flops * scale, round(seen.kept_bytes * scale), exact=False)


def _count(spec: TrialSpec, data: ExpectedData, model: nn.Module, images: int) -> _Step:
    batch = torch.randn(images, *data.image_shape)
    labels = torch.zeros(images, dtype=torch.long)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        flops = count_step(model, Objective(spec.train), batch, labels).total
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return _Step(flops, max(sum(kept.values()) - weights, 0), exact=True)
