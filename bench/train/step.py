"""One optimiser step, and the state that it changes.

The random numbers of a step depend only on the seed and the step's number, so training resumed from
its parameters, optimiser state and step number continues as if it had never been interrupted.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

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
from bench.config import TrialSpec
from bench.data import Dataset, Purpose, TrainingBatches, random_bits
from bench.model import Objective, Parent, autocast, losses_for, moe_layers, starting_model
from bench.train.checkpoint import module_state, optimizer_state, restore_module, restore_optimizer
from bench.train.micro_batches import needs_sums_first, refuse_other_optimisation
from bench.train.optimizer import build_optimizer, following, learning_rate
from bench.train.ranks import ALONE, Ranks
from routers import Parts, finish_step, listens, step_stats
from routers.errors import NonFiniteError


class Trainer:
    """The state of a training run: model, optimiser, averaged weights.

    Each batch, or a rank's share of it, goes through the model in `train.micro_batches` parts, one
    after another; their gradients are summed, over the ranks too. If a loss needs sums over the
    batch, all parts go through twice, first without gradients.
    The averaged weights follow the others as an exponential moving average, and so do buffers.

    Args:
        batches: batches of the training split of `dataset`, or this rank's share of each.
        steps: number of steps of the whole training, for the learning-rate schedule; may be set
            later.
        parent: the trained parent of a derived trial, see `starting_model`.
        ranks: the ranks that train this trial together.

    Raises:
        RequestError: splitting a batch would change the optimisation.

    Attributes:
        overhead: FLOPs that splitting a batch adds to each step: on the first rank those of all.
        step_flops: the FLOPs of this rank's share of each step, once one was counted, and those of
            the last whole step; None if they are not needed.
    """

    def __init__(
        self,
        spec: TrialSpec,
        dataset: Dataset,
        batches: TrainingBatches,
        device: torch.device,
        steps: int,
        parent: Parent | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self._spec, self._batches, self.steps, self._ranks = spec, batches, steps, ranks
        self._model = starting_model(spec, dataset, parent).to(device)
        ranks.copy_first(module_state(self._model).values())
        self._parameters = list(self._model.parameters())
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
        cut = ranks.number * self._micro_batches > 1
        self.overhead = self._overhead(*batches.first) if cut and ranks.first else 0

    @property
    def model(self) -> nn.Module:
        """The model to evaluate and save, with averaged weights if the recipe averages them."""
        return self._model if self._average is None else self._average.module

    def step(self, step: int, counter: FlopCounter | None = None) -> Tensor:
        """Take one optimiser step, numbered from 0; `counter` counts the FLOPs of both passes.

        Returns:
            The task loss before the step, a scalar on the device.

        Raises:
            NonFiniteError: a router's logits are not finite, on any rank.
        """
        images, labels = self._batches(step)
        train, counters = self._spec.train, self._ranks.counters
        seed_generators(self._drawn(Purpose.DROPOUT, step, *counters), images.device)
        self._noise.manual_seed(self._drawn(Purpose.ROUTER_NOISE, self._spec.twin, step, *counters))
        known = Parts(self._ranks.sum) if self._ranks.number * self._micro_batches > 1 else None
        size = train.batch_size
        try:
            loss, stats, sizes = self._differentiate(images, labels, step, size, known, counter)
        except NonFiniteError as error:
            self._ranks.refuse(error)
            raise
        loss, stats = self._ranks.sum(loss), self._summed(stats)
        self._ranks.add_gradients(self._parameters)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(step, self.steps, train)
        if train.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, train.clip_norm)
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self._model)
        if counter is not None:
            counter.by_kind["trials"] += self._trial_flops
        if self.step_flops is not None:
            counted = None if counter is None else counter.total - self.overhead
            self.step_flops.last = self._ranks.total(self.step_flops.add(sizes, counted))
        if stats:
            for layer, own in zip(self._moe_layers, stats, strict=True):
                if layer.router.trials and layer.router.trials.at(step):
                    own["expert_losses"] = losses_for(self._model, layer, images, labels, train)
            finish_step([layer.router for layer in self._moe_layers], stats)
        return loss

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that the next steps depend on, without copying them."""
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
        self,
        images: Tensor,
        labels: Tensor,
        step: int,
        size: int,
        known: Parts | None,
        counter: FlopCounter | None,
    ) -> tuple[Tensor, list[dict[str, Tensor]], list[Sizes]]:
        """Compute the gradients; return the task loss, statistics for routers that listen, sizes.

        Statistics and sizes (see `StepFlops`) are per MoE layer.

        Args:
            size: number of images in the batch, of which these are a share.
            known: what is known about all parts of the batch; None if it is not split.
        """
        parts = self._micro_batches if known else 1
        pieces = list(zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True))
        shares = [len(part) / size for _, part in pieces]
        if not self._model.training:  # after an evaluation; else walking the modules is wasted
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
        """Add up the sums that losses need, in a pass without gradients with the same random draws.

        Its FLOPs are not counted, nor are others that splitting a batch adds: they save memory or
        time, and if they used up the budget, splitting would change the training.
        """
        device, noise = next(self._model.parameters()).device, self._noise.get_state()
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(cuda), torch.no_grad():
            for piece, share in zip(pieces, shares, strict=True):
                known.begin(share, adding=True)
                self._objective(self._model, *piece, step=step, generator=self._noise, parts=known)
        known.end_first_pass()
        self._noise.set_state(noise)

    def _summed(self, stats: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Sum the statistics of each layer over the ranks."""
        return [{name: self._ranks.sum(value) for name, value in own.items()} for own in stats]

    def _overhead(self, images: Tensor, labels: Tensor) -> int:
        """Count the FLOPs that do not grow with a part's size, and those of summing gradients."""
        ranks = self._ranks.number
        # Two images each: with one image, the sum over the images of a part would be skipped.
        some = 2 * ranks * self._micro_batches
        whole = images[:some], labels[:some]
        shares = zip(*(each.tensor_split(ranks) for each in whole), strict=True)

        def flops(share: tuple[Tensor, Tensor], known: Parts | None) -> int:
            counter = FlopCounter()
            self._differentiate(*share, 0, len(share[0]), known, counter)
            return counter.total

        return sum(flops(share, Parts()) for share in shares) - flops(whole, None)

    @cached_property
    def _trial_flops(self) -> int:
        """A step's share of the FLOPs of trying experts; constant, as batches are of one size."""
        return trial_flops(self._model, *self._batches.first, self._spec.train)

    def _drawn(self, purpose: Purpose, *counters: int) -> int:
        return int(random_bits(purpose, self._spec.seed, *counters)[0])


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators that dropout draws from, on the CPU and on the device.

    `torch.manual_seed` also formats the call stack for each kind of device that is not in use,
    which takes half a millisecond: much of a small model's step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)


def added(sums: list[dict[str, Tensor]], stats: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Add the statistics of a micro-batch, layer by layer, to those of the previous ones."""
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
    ranks: Ranks = ALONE,
) -> Budget:
    """Resolve the budget of a trial from the FLOPs of its first step on the device it trains on.

    What splitting a batch adds is not counted; a step of a partly frozen model takes fewer FLOPs.
    """

    def cost_of(of: TrialSpec) -> Cost:
        counter = FlopCounter()
        trainer = Trainer(of, dataset, batches, device, 1, parent, ranks)
        trainer.step(0, counter)
        flops = ranks.total(counter.total - trainer.overhead)
        return Cost(flops, parameters_of(trainer.model))

    return match_compute(spec, len(dataset.splits["train"]), cost_of)
