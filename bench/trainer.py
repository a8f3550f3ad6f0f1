"""One optimiser step, and all that it changes.

What a step draws at random depends on the seed and the step's number alone, so a training that is
continued from its parameters, its optimiser's state and its step goes on as if never interrupted.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from bench.batches import TrainingBatches
from bench.compute.flops import FlopCounter
from bench.config import TrialSpec
from bench.data import Dataset
from bench.data.draws import Purpose, random_bits
from bench.derive import starting_model
from bench.model import moe_layers
from bench.objective import Objective
from bench.optim import averaged, build_optimizer, learning_rate
from routers import Router, Routing


class Trainer:
    """The state of one training: model, optimiser, averaged weights.

    Args:
        spec: the trial.
        dataset: what it trains on.
        batches: of its training split.
        device: where they are.
        steps: of the whole training, for the learning rate's schedule.
        parent: see `starting_model`.
    """

    def __init__(
        self,
        spec: TrialSpec,
        dataset: Dataset,
        batches: TrainingBatches,
        device: torch.device,
        steps: int,
        parent: nn.Module | None = None,
    ) -> None:
        self._spec, self._batches, self._steps = spec, batches, steps
        self._model = starting_model(spec, dataset, parent).to(device)
        self._optimizer = build_optimizer(self._model, spec.train)
        ema = spec.train.ema
        self._average = None if ema is None else averaged(self._model, ema)
        self._objective = Objective(spec.train)
        self._noise = torch.Generator(device)
        self._moe_layers = list(moe_layers(self._model).values())

    @property
    def model(self) -> nn.Module:
        """What is evaluated and kept: the averaged weights where the recipe averages."""
        return self._model if self._average is None else self._average.module

    def step(self, step: int, counter: FlopCounter | None = None) -> Tensor:
        """Take one step.

        Args:
            step: its number, from 0.
            counter: counts the FLOPs of the forward and backward pass.

        Returns:
            The task's loss before the step, a scalar on the device.
        """
        images, labels = self._batches(step)
        torch.manual_seed(self._drawn(Purpose.DROPOUT, step))
        self._noise.manual_seed(self._drawn(Purpose.ROUTER_NOISE, step))
        self._model.train()
        self._optimizer.zero_grad()
        with counter or nullcontext():
            losses = self._objective(self._model, images, labels, step=step, generator=self._noise)
            losses.total.backward()
        self._update(step)
        self._tell_routers(losses.routings)
        return losses.task

    def _update(self, step: int) -> None:
        rate = learning_rate(step, self._steps, self._spec.train)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        if self._spec.train.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._spec.train.clip_norm)
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self._model)

    def _tell_routers(self, routings: list[Routing]) -> None:
        for layer, routing in zip(self._moe_layers, routings, strict=True):
            # Few routers listen, and counting loads costs time.
            if type(layer.router).after_step is not Router.after_step:
                loads = {"load": routing.expert_load(), "demand": routing.demand()}
                layer.router.after_step({name: load.sum(0) for name, load in loads.items()})

    def _drawn(self, purpose: Purpose, step: int) -> int:
        return int(random_bits(purpose, self._spec.seed, step)[0])
