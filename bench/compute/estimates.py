"""What a training would take, from shapes alone: no data, no weights, no device.

Everything runs on torch's fake tensors, which know their shape and hold nothing. They go the way
that a CPU goes, so the FLOPs are those of a training there.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from bench.compute.budget import Budget, Cost, match_compute, parameters_of
from bench.compute.flops import FlopCounter, expert_stats
from bench.config import TrialSpec
from bench.data import ExpectedData
from bench.model import Objective, starting_model, trial_model
from suites.support.timing import kept_for_backward

SAMPLE = (1, 2)
"""Images in the batches that a whole one is extrapolated from, where the data decides."""


@dataclass(frozen=True)
class Estimate:
    """Of one trial.

    Attributes:
        budget: its steps and FLOPs.
        exact: whether every step takes these FLOPs. Else what the router does depends on the
            data: it was told "no" where it asks, or ran on a few images of noise.
        parameters: of the model.
        training_bytes: weights, gradients, AdamW's two moments, and what a step keeps for its
            backward pass. The peak is somewhat above.
        checkpoint_bytes: of one snapshot.
        expert_stats: see there.
    """

    budget: Budget
    exact: bool
    parameters: int
    training_bytes: int
    checkpoint_bytes: int
    expert_stats: dict[str, float]


@dataclass(frozen=True)
class _Step:
    """FLOPs of a step, and the bytes that it keeps for its backward pass."""

    flops: float
    kept_bytes: float
    exact: bool


def estimate(
    spec: TrialSpec, data: ExpectedData, parent_data: ExpectedData | None = None
) -> Estimate:
    """What a trial takes.

    Args:
        spec: the trial.
        data: what it is trained on; it need not be there.
        parent_data: what its parent is trained on; None where it has none.

    Raises:
        RequestError: the model, the router or the recipe does not exist or fit.
    """
    budget = match_compute(spec, data.num_samples, lambda of: cost_of(of, data, parent_data))
    told = _told(spec, data, parent_data)
    own, model = _step(*told), _shapes(*told)
    largest = -(-spec.train.batch_size // spec.train.micro_batches)  # of the parts of a batch
    kept = own.kept_bytes / spec.train.batch_size
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


def cost_of(spec: TrialSpec, data: ExpectedData, parent_data: ExpectedData | None = None) -> Cost:
    """What the trial's model takes; arguments as those of `estimate`."""
    told = _told(spec, data, parent_data)
    return Cost(_step(*told).flops, parameters_of(_shapes(*told)))


def _told(
    spec: TrialSpec, data: ExpectedData, parent_data: ExpectedData | None
) -> tuple[str, ExpectedData, ExpectedData | None]:
    return spec.with_seed(0).model_dump_json(), data, parent_data if spec.parent else None


@lru_cache(maxsize=1)
def _shapes(description: str, data: ExpectedData, parent_data: ExpectedData | None) -> nn.Module:
    """The model without memory for its weights; a deep one takes as long as half of its step."""
    with torch.device("meta"):
        return _start(TrialSpec.model_validate_json(description), data, parent_data)


def _start(spec: TrialSpec, data: ExpectedData, parent_data: ExpectedData | None) -> nn.Module:
    """The model that is trained, of a parent that was not."""
    if spec.parent is None or parent_data is None:
        return starting_model(spec, data, None)
    return starting_model(spec, data, trial_model(spec.parent, parent_data))


@lru_cache(maxsize=64)
def _step(description: str, data: ExpectedData, parent_data: ExpectedData | None) -> _Step:
    """Of the trial with this description, as JSON; trials share the dense model's."""
    spec = TrialSpec.model_validate_json(description)
    model = deepcopy(_shapes(description, data, parent_data))
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), _AnswerNo() as answers:
            fake = model.to_empty(device="cpu")
            whole = _count(spec, data, fake, spec.train.batch_size)
            return replace(whole, exact=not answers.asked)
    except DataDependentOutputException:
        real = _start(spec, data, parent_data)
        one, two = (_sampled(spec, data, real, images) for images in SAMPLE)
        more = spec.train.batch_size - 1
        return _Step(
            one.flops + more * (two.flops - one.flops),
            one.kept_bytes + more * (two.kept_bytes - one.kept_bytes),
            exact=False,
        )


def _sampled(spec: TrialSpec, data: ExpectedData, model: nn.Module, images: int) -> _Step:
    """On noise that is always the same: widths are solved for by it, and trials known by widths."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return _count(spec, data, model, images)


class _AnswerNo(TorchDispatchMode):
    """Fake tensors hold no values: whoever asks whether one is true is told no."""

    asked = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            self.asked = True
            return False
        return func(*args, **(kwargs or {}))


def _count(spec: TrialSpec, data: ExpectedData, model: nn.Module, images: int) -> _Step:
    batch = torch.randn(images, *data.image_shape)
    labels = torch.zeros(images, dtype=torch.long)
    model.zero_grad()
    with FlopCounter() as counter, kept_for_backward(model) as kept:
        Objective(spec.train)(model.train(), batch, labels, step=0).total.backward()
    return _Step(counter.report().total, kept.bytes, exact=True)
