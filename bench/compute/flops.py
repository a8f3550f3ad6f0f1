"""FLOPs counted from the operations that torch executes, each priced by one table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.compute.costs import Call, cost
from bench.model import moe_layers
from suites.support.subject import Observed


@dataclass(frozen=True)
class FlopReport:
    """The FLOPs of what ran under a counter.

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
    """A context that counts the FLOPs of everything that runs in it.

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
        """Return what was counted so far."""
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


def model_stats(model: nn.Module, seen: Observed) -> dict[str, float]:
    """Compute single numbers that describe a model in eval mode.

    Args:
        model: dense, or with MoE layers.
        seen: a batch that it has run on.

    Returns:
        `params_total`; `params_active`: those that act on a token on average, where an expert's
        count by the slots that it runs for each token (1/E of the experts' for top-1 at capacity
        1, twice as much at capacity 2); `flops_per_image`: of the forward pass, on that batch;
        `slots_per_choice`: those that the experts run for each choice of a token, or for each
        token where tokens do not choose, used or not, mean over MoE layers; and `expert_stats`.
    """
    per_choice = []
    total = active = float(sum(parameter.numel() for parameter in model.parameters()))
    for layer, routing in zip(moe_layers(model).values(), seen.routings, strict=True):
        experts = sum(parameter.numel() for parameter in layer.experts.parameters())
        active -= experts * (1 - layer.experts.active_share(routing))
        tokens = routing.gates.shape[:2].numel()
        per_choice.append(routing.slot_count / (tokens * (routing.choices or 1)))
    with torch.no_grad():
        flops = count_flops(model, seen.images).total
    return {
        "params_total": total,
        "params_active": active,
        "flops_per_image": flops / len(seen.images),
        **({"slots_per_choice": fmean(per_choice)} if per_choice else {}),
        **expert_stats(model),
    }


def expert_stats(model: nn.Module) -> dict[str, float]:
    """Average the statistics of the experts (see `Experts.stats`) over MoE layers."""
    by_name: dict[str, list[float]] = defaultdict(list)
    for layer in moe_layers(model).values():
        for name, value in layer.experts.stats().items():
            by_name[name].append(value)
    return {name: fmean(values) for name, values in by_name.items()}
