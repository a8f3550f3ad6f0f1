"""What a pass keeps in memory for its backward pass, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


class Kept:
    """Storages that autograd holds on to.

    Args:
        module: whose weights do not count: they are there anyway.
    """

    def __init__(self, module: nn.Module) -> None:
        self._weights = {weight.untyped_storage()._cdata for weight in module.parameters()}
        self._sizes: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        """Of all that was kept, each storage once."""
        return sum(self._sizes.values())

    def keep(self, tensor: Tensor) -> Tensor:
        """See a tensor that is saved for the backward pass."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights:
            self._sizes[storage._cdata] = storage.nbytes()
        return tensor


@contextmanager
def kept_for_backward(module: nn.Module) -> Iterator[Kept]:
    """Counts what the forward passes inside keep, inputs too; the module's weights are left out."""
    kept = Kept(module)
    with saved_tensors_hooks(kept.keep, lambda tensor: tensor):
        yield kept
