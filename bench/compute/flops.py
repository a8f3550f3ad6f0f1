"""Counting FLOPs from what runs: each operation that torch executes is priced by one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.compute.costs import Call, cost


@dataclass(frozen=True)
class FlopReport:
    """FLOPs of what ran.

    Attributes:
        total: all of them.
        by_kind: FLOPs by kind of work: matmul, attention, softmax, norm, elementwise, reduction,
            sort, random.
        uncounted: operations on floats that the table does not know, with their number of calls;
            they add nothing to the total.
    """

    total: int
    by_kind: dict[str, int]
    uncounted: dict[str, int]


class FlopCounter(TorchDispatchMode):
    """Counts while it is entered; everything runs as usual.

    It sees operations below autograd, so the backward pass, custom autograd functions and the
    iterations of a transport plan are counted as the operations that they run. Works on any
    device, `meta` included.
    """

    def __init__(self) -> None:
        super().__init__()
        self._by_kind: Counter[str] = Counter()
        self._uncounted: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # fake tensors ask for their device
            return func(*args, **kwargs)
        # Without autograd (inference mode) composite operations come here whole.
        with self:
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        out = func(*args, **kwargs)
        price = cost(Call(func, args, kwargs, out))
        if price is None:
            self._uncounted[str(func)] += 1
        elif price.flops:
            self._by_kind[price.kind] += price.flops
        return out

    def report(self) -> FlopReport:
        """What was counted until now."""
        total = sum(self._by_kind.values())
        return FlopReport(total, dict(self._by_kind), dict(self._uncounted))


def count_flops(
    function: Callable[..., Tensor], *inputs: Any, backward: bool = False
) -> FlopReport:
    """Count one call of a function or module.

    Args:
        function: returns one tensor.
        inputs: its arguments.
        backward: also the backward pass from a gradient of ones; gradients are left in `.grad`.
    """
    with FlopCounter() as counter, torch.set_grad_enabled(backward):
        out = function(*inputs)
        if backward:
            out.backward(torch.ones_like(out))
    return counter.report()
