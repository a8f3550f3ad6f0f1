"""How a trained model uses its experts on calibration images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from bench.data import Dataset, ShapedData, normalise
from bench.model.moe import MoELayer, moe_layers
from bench.model.state import forward_pass
from routers import Routing

IMAGES, COMPARED = 512, 128
"""Numbers of validation images: to count experts' use on, and to compare their outputs on."""


@dataclass(eq=False)
class Use:
    """The use of a layer's experts, summed over the calibration images.

    Attributes:
        count: (E,) double, the load of each expert in tokens, before any are dropped.
        mass: (E,) double, the sum of each expert's gates.
        inputs: the layer's inputs for the images to compare on, (n, …, *token) for each batch.
        constant: whether the count is constant by construction.
    """

    count: Tensor | float = 0.0
    mass: Tensor | float = 0.0
    inputs: list[Tensor] = field(default_factory=list)
    constant: bool = False

    def add(self, routing: Routing) -> None:
        """Add the routing of a batch."""
        self.count = self.count + routing.demand().sum(0).double().cpu()
        self.mass = self.mass + routing.gates.double().sum((0, 1)).cpu()
        self.constant = routing.constant_load


@dataclass(frozen=True, eq=False)
class Calibration:
    """A trained model, and the images that show which of its experts matter.

    Attributes:
        start: returns the model as it was before its first step.
        data: the images, or only their shape when estimating costs.
        batch_size: images per batch.
        seed: seed of random choices.
    """

    model: nn.Module
    start: Callable[[], nn.Module]
    data: ShapedData
    batch_size: int
    seed: int = 0

    @property
    def layers(self) -> list[MoELayer]:
        """The model's MoE layers, in network order."""
        return list(moe_layers(self.model).values())

    @cached_property
    def uses(self) -> list[Use]:
        """The use of the experts of each MoE layer, in network order."""
        assert isinstance(self.data, Dataset)
        uses, seen = [Use() for _ in self.layers], 0
        device, training = next(self.model.parameters()).device, self.model.training
        self.model.eval()
        for pixels, _ in self.data.splits["val"].batches(self.batch_size):
            wanted = max(0, COMPARED - seen)
            handles = [
                layer.register_forward_pre_hook(
                    lambda _, inputs, use=use, wanted=wanted: use.inputs.append(inputs[0][:wanted])
                )
                for layer, use in zip(self.layers, uses, strict=True)
            ]
            try:
                with torch.no_grad(), forward_pass(self.model) as routings:
                    self.model(normalise(pixels.to(device), self.data))
            finally:
                for handle in handles:
                    handle.remove()
            for use, routing in zip(uses, routings, strict=True):
                use.add(routing)
            seen += len(pixels)
            if seen >= IMAGES:
                break
        self.model.train(training)
        return uses
