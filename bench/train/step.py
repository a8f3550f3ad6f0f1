"""One optimiser step, and the state that it changes.

The random numbers of a step depend on the seed and the step's number alone, so a training resumed
from its parameters, optimiser state and step number goes on as if never interrupted.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bench.compute import (
    Budget,
    Cost,
    FlopCounter,
    Sizes,
    StepFlops,
    match_compute,
    parameters_of,
    total_sizes,
    trial_flops,
)
from bench.config import TrainConfig, TrialSpec
from bench.data import Dataset, Purpose, TrainingBatches, random_bits
from bench.model import Objective, Parent, autocast, losses_for, moe_layers, starting_model
from bench.train.checkpoint import module_state, optimizer_state, restore_module, restore_optimizer
from bench.train.micro_batches import needs_sums_first, refuse_other_optimisation
from routers import Parts, finish_step, listens, step_stats


def build_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """Build AdamW (1711.05101) for all trainable parameters.

    Biases, norms, scalars and the parameters in a timm model's `no_weight_decay` do not decay.
    """
    spared: set[str] = getattr(model, "no_weight_decay", set)()
    decaying: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # A bias may be stacked over experts, as (E, 1, h).
            is_bias = any(part.startswith("bias") for part in name.split("."))
            keep = name in spared or parameter.ndim < 2 or is_bias
            (free if keep else decaying).append(parameter)
    groups = [
        {"params": decaying, "weight_decay": train.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.lr, fused=True)


def learning_rate(step: int, steps: int, train: TrainConfig) -> float:
    """Return the rate of a step: linear warm-up, then half a cosine down to 0 (1608.03983).

    Args:
        step: number of the step, from 0; the first has a positive rate.
        steps: number of steps of the whole training.
    """
    warmup = round(train.warmup * steps)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    return train.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


Tensors = tuple[Tensor, ...] | list[Tensor]


def following(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Return how averaged weights follow: an exponential moving average; counts are copied.

    An average of integers is cut to the integer below, and of truth values is true for ever.
    """
    average = get_ema_multi_avg_fn(decay)

    def follow(averages: Tensors, values: Tensors, count: Tensor | int) -> None:
        if averages[0].is_floating_point():
            average(averages, values, count)
        else:
            for own, value in zip(averages, values, strict=True):
                own.copy_(value)

    return follow


class Trainer:
    """The state of one training: model, optimiser, averaged weights.

    Each batch goes through the model in `train.micro_batches` parts, one after the other, whose
    gradients are summed; twice, first without gradients, where a loss needs sums over the batch.
    The averaged weights follow the others as an exponential moving average, buffers too.

    Args:
        batches: batches of the training split of `dataset`.
        steps: number of steps of the whole training, for the learning rate's schedule; may be set
            later.
        parent: the trained parent of a derived trial, see `starting_model`.

    Raises:
        RequestError: micro-batches would change the optimisation.

    Attributes:
        overhead: FLOPs that micro-batches add to each step.
        step_flops: knows the FLOPs of each step, once one was counted; None where nobody asks.
    """

    def __init__(
        self,
        spec: TrialSpec,
        dataset: Dataset,
        batches: TrainingBatches,
        device: torch.device,
        steps: int,
        parent: Parent | None = None,
    ) -> None:
        self._spec, self._batches, self.steps = spec, batches, steps
        self._model = starting_model(spec, dataset, parent).to(device)
        self._optimizer = build_optimizer(self._model, spec.train)
        self._average = None
        if (decay := spec.train.ema) is not None:
            follow = following(decay)
            self._average = AveragedModel(self._model, multi_avg_fn=follow, use_buffers=True)
        self._objective = Objective(spec.train)
        self._noise = torch.Generator(device)
        self._moe_layers = list(moe_layers(self._model).values())
        self._micro_batches = spec.train.micro_batches
        self.step_flops: StepFlops | None = None
        refuse_other_optimisation(spec, self._model)
        self.overhead = self._overhead(*batches.first) if self._micro_batches > 1 else 0

    @property
    def model(self) -> nn.Module:
        """The model to evaluate and save: the averaged weights where the recipe averages."""
        return self._model if self._average is None else self._average.module

    def step(self, step: int, counter: FlopCounter | None = None) -> Tensor:
        """Take one optimiser step, numbered from 0, counting the FLOPs of both its passes.

        Returns:
            The task's loss before the step, a scalar on the device.
        """
        images, labels = self._batches(step)
        torch.manual_seed(self._drawn(Purpose.DROPOUT, step))
        self._noise.manual_seed(self._drawn(Purpose.ROUTER_NOISE, self._spec.twin, step))
        parts, train = self._micro_batches, self._spec.train
        loss, stats, sizes = self._differentiate(images, labels, step, parts, counter)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(step, self.steps, train)
        if train.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._model.parameters(), train.clip_norm)
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self._model)
        if counter is not None:
            counter.by_kind["trials"] += self._trial_flops
        if self.step_flops is not None:
            counted = None if counter is None else counter.total - self.overhead
            self.step_flops.add(sizes, counted)
        if stats:
            for layer, own in zip(self._moe_layers, stats, strict=True):
                if layer.router.trials and layer.router.trials.at(step):
                    own["expert_losses"] = losses_for(self._model, layer, images, labels, train)
            finish_step([layer.router for layer in self._moe_layers], stats)
        return loss

    def state(self) -> dict[str, Tensor]:
        """Collect the tensors that the next steps depend on, without copying them."""
        parts = {name: module_state(module) for name, module in self._modules().items()}
        parts["optimizer"] = optimizer_state(self._optimizer)
        return {f"{part}.{name}": parts[part][name] for part in parts for name in parts[part]}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load the `state` of a trainer of the same trial.

        Raises:
            ValueError: the state does not fit; this trainer must not be used any more.
        """
        parts: dict[str, dict[str, Tensor]] = {"optimizer": {}}
        for key, tensor in state.items():
            part, _, name = key.partition(".")
            parts.setdefault(part, {})[name] = tensor
        for part, module in self._modules().items():
            restore_module(module, parts.get(part, {}))
        restore_optimizer(self._optimizer, parts["optimizer"])

    def _modules(self) -> dict[str, nn.Module]:
        average = {} if self._average is None else {"average": self._average}
        return {"model": self._model, **average}

    def _differentiate(
        self, images: Tensor, labels: Tensor, step: int, parts: int, counter: FlopCounter | None
    ) -> tuple[Tensor, list[dict[str, Tensor]], list[Sizes]]:
        """Compute the gradients; returns the task loss, statistics for routers that listen, sizes.

        Statistics and sizes (see `StepFlops`) are of each MoE layer.
        """
        pieces = list(zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True))
        known = Parts() if parts > 1 else None
        shares = [len(part) / len(labels) for _, part in pieces]
        self._model.train()
        self._optimizer.zero_grad()
        if known and needs_sums_first(self._spec, self._model):
            self._add_up(known, pieces, shares, step)
        tasks: list[Tensor] = []
        stats: list[dict[str, Tensor]] = []
        sizes: list[list[Sizes]] = []
        for piece, share in zip(pieces, shares, strict=True):
            with counter or nullcontext():
                if known:
                    known.begin(share, adding=False)
                losses = self._objective(
                    self._model, *piece, step=step, generator=self._noise, parts=known
                )
                losses.total.backward(losses.total.new_tensor(share))
            tasks.append(losses.task)
            # Few routers listen, and counting loads costs time.
            if any(listens(layer.router) for layer in self._moe_layers):
                stats = added(stats, [step_stats(routing) for routing in losses.routings])
            if self.step_flops is not None:
                layers = self._moe_layers
                # In the precision of the step, which decides how experts run.
                with autocast(self._spec.train.precision, images.device):
                    sizes.append(self.step_flops.sizes_of(self._model, layers, losses.routings))
        loss = (torch.stack(tasks) * images.new_tensor(shares)).sum()
        return loss, stats, total_sizes(sizes)

    def _add_up(
        self, known: Parts, pieces: list[tuple[Tensor, Tensor]], shares: list[float], step: int
    ) -> None:
        """Add up the sums that losses need, in a pass without gradients that draws what later is.

        Its FLOPs are not counted, nor are others that micro-batches add: they buy memory, and a
        trial in parts would be another training if they used up its budget.
        """
        device, noise = next(self._model.parameters()).device, self._noise.get_state()
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(cuda), torch.no_grad():
            for piece, share in zip(pieces, shares, strict=True):
                known.begin(share, adding=True)
                self._objective(self._model, *piece, step=step, generator=self._noise, parts=known)
        self._noise.set_state(noise)

    def _overhead(self, images: Tensor, labels: Tensor) -> int:
        """Count the FLOPs that do not grow with a part's images, and those of summing gradients."""

        def flops(parts: int) -> int:
            counter = FlopCounter()
            # Two images each: with one image, the sum over the images of a part would be skipped.
            some = 2 * self._micro_batches
            self._differentiate(images[:some], labels[:some], 0, parts, counter)
            return counter.total

        return flops(self._micro_batches) - flops(1)

    @cached_property
    def _trial_flops(self) -> int:
        """A step's share of trying experts, the same in each step, since it is as many images."""
        return trial_flops(self._model, *self._batches.first, self._spec.train)

    def _drawn(self, purpose: Purpose, *counters: int) -> int:
        return int(random_bits(purpose, self._spec.seed, *counters)[0])


def added(sums: list[dict[str, Tensor]], stats: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Add the statistics of a micro-batch, layer by layer, to those of the ones before."""
    if not sums:
        return stats
    return [
        {name: before[name] + own[name] for name in own}
        for before, own in zip(sums, stats, strict=True)
    ]


def resolve_budget(
    spec: TrialSpec,
    dataset: Dataset,
    batches: TrainingBatches,
    device: torch.device,
    parent: Parent | None = None,
) -> Budget:
    """Resolve the budget of a trial from the FLOPs of its first step on the device it trains on.

    The overhead of micro-batches is not counted; a step of a partly frozen model takes fewer FLOPs.
    """

    def cost_of(of: TrialSpec) -> Cost:
        counter = FlopCounter()
        trainer = Trainer(of, dataset, batches, device, 1, parent)
        trainer.step(0, counter)
        return Cost(counter.total - trainer.overhead, parameters_of(trainer.model))

    return match_compute(spec, len(dataset.splits["train"]), cost_of)
