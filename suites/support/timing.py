"""Timing alternatives against each other in one process."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from routers.router import Router
from routers.routing import Routing
from suites.support.subject import routers_of

WARM_UP = 3
"""Untimed runs of each alternative, before the first timed one."""


@contextmanager
def fixed_conditions(threads: int) -> Iterator[None]:
    """Fix the number of threads and switch off garbage collection; restore both afterwards."""
    threads_before, collected_before = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(threads)
    gc.disable()
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        if collected_before:
            gc.enable()


def interleaved(
    runs: dict[str, Callable[[], object]],
    *,
    device: torch.device,
    seconds: float,
    min_repeats: int,
    max_repeats: int,
) -> dict[str, np.ndarray]:
    """Time alternatives in turn, A B then B A then A B …, so that drift meets all alike.

    Args:
        runs: by name, what is timed.
        device: waited for before and after each run, where it works asynchronously.
        seconds: the repeats end after this, once there are `min_repeats`.
        min_repeats, max_repeats: of each alternative.

    Returns:
        Milliseconds of each repeat, (repeats,), by name; entry i of each was run in turn i.
    """
    for run in runs.values():
        for _ in range(WARM_UP):
            run()
    milliseconds: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    end = perf_counter() + seconds
    for repeat in range(max_repeats):
        if repeat >= min_repeats and perf_counter() > end:
            break
        for name in order:
            _wait(device)
            start = perf_counter()
            runs[name]()
            _wait(device)
            milliseconds[name].append(1e3 * (perf_counter() - start))
        order.reverse()
    return {name: np.array(times) for name, times in milliseconds.items()}


def ratio_interval(
    numerator: np.ndarray, denominator: np.ndarray, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Compute a 95 % bootstrap interval of median(numerator) / median(denominator).

    Whole turns are resampled, since what disturbs one run of a turn tends to disturb the other.

    Args:
        numerator, denominator: (repeats,) times that were taken in turn.
    """
    turns = np.random.default_rng(seed).integers(len(numerator), size=(resamples, len(numerator)))
    ratios = np.median(numerator[turns], axis=1) / np.median(denominator[turns], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Measure the peak bytes that a run allocates on a CUDA device, above those before it."""
    _wait(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    _wait(device)
    return torch.cuda.max_memory_allocated(device) - before


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


Pass = Literal["forward", "train"]
PASSES: tuple[Pass, ...] = ("forward", "train")


def one_pass(name: Pass, module: nn.Module, x: Tensor) -> Callable[[], object]:
    """Return a function that runs one pass each time that it is called.

    Args:
        name: "forward" is in eval mode without gradients; "train" is forward and backward in
            training mode. The module is put into that mode here.
        x: the input; the backward pass reaches it too if it requires a gradient.
    """
    module.train(name == "train")
    if name == "forward":
        return torch.no_grad()(lambda: module(x))
    leaves = [x, *module.parameters()]
    gradient = torch.randn_like(module(x))

    def forward_backward() -> None:
        module(x).backward(gradient)
        for leaf in leaves:
            leaf.grad = None

    return forward_backward


@dataclass(frozen=True, eq=False)
class RouterCall:
    """One call of a router inside a layer or model, which can be made again."""

    router: Router
    arguments: tuple[Any, ...]
    routing: Routing

    def again(self) -> Routing:
        """Run the router alone, in its current mode."""
        routing: Routing = self.router(*self.arguments)
        return routing


@torch.no_grad()
def router_calls(module: nn.Module, x: Tensor) -> list[RouterCall]:
    """Return the calls of routers in one forward pass, in order; none where the module is dense."""
    calls: list[RouterCall] = []

    def record(router: nn.Module, arguments: tuple[Any, ...], routing: Routing) -> None:
        assert isinstance(router, Router)
        calls.append(RouterCall(router, arguments, routing))

    handles = [router.register_forward_hook(record) for router in routers_of(module)]
    try:
        module(x)
    finally:
        for handle in handles:
            handle.remove()
    return calls


class Kept:
    """The storages that autograd keeps.

    Args:
        module: whose weights do not count: they are there anyway.
    """

    def __init__(self, module: nn.Module) -> None:
        self._weights = {weight.untyped_storage()._cdata for weight in module.parameters()}
        self._sizes: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        """The bytes of all kept storages, each counted once."""
        return sum(self._sizes.values())

    def keep(self, tensor: Tensor) -> Tensor:
        """See a tensor that is saved for the backward pass."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights:
            self._sizes[storage._cdata] = storage.nbytes()
        return tensor


@contextmanager
def kept_for_backward(module: nn.Module) -> Iterator[Kept]:
    """Count what forward passes keep for the backward pass, without the module's weights."""
    kept = Kept(module)
    with saved_tensors_hooks(kept.keep, lambda tensor: tensor):
        yield kept
