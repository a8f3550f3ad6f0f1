"""Timing alternatives against each other in one process, and their memory, on any device."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

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
    device: torch.device,
    seconds: float,
    min_repeats: int,
    max_repeats: int,
) -> dict[str, np.ndarray]:
    """Time alternatives in turn, A B then B A then A B …, so that drift affects all equally.

    Args:
        device: where they run.
        seconds: repeats end after this time, once there are `min_repeats` of each alternative.

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
            milliseconds[name].append(elapsed(runs[name], device))
        order.reverse()
    return {name: np.array(times) for name, times in milliseconds.items()}


def elapsed(run: Callable[[], object], device: torch.device) -> float:
    """Time one run, in milliseconds: by a GPU's own events, or by the host's clock."""
    wait(device)
    if device.type != "cuda":
        start = perf_counter()
        run()
        return 1e3 * (perf_counter() - start)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    stream = torch.cuda.current_stream(device)
    begin.record(stream)
    run()
    end.record(stream)
    end.synchronize()
    return begin.elapsed_time(end)


def ratio_interval(
    numerator: np.ndarray, denominator: np.ndarray, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Compute a 95 % bootstrap interval for the ratio of two medians of times, (repeats,) each.

    Whole turns are resampled, since what disturbs one run of a turn tends to disturb the other.
    """
    turns = np.random.default_rng(seed).integers(len(numerator), size=(resamples, len(numerator)))
    ratios = np.median(numerator[turns], axis=1) / np.median(denominator[turns], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Measure the peak bytes that a run allocates on a CUDA device, above those before it."""
    wait(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    wait(device)
    return torch.cuda.max_memory_allocated(device) - before


def wait(device: torch.device) -> None:
    """Wait until a device has finished its work; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


Pass = Literal["forward", "train"]
PASSES: tuple[Pass, ...] = ("forward", "train")


def one_pass(name: Pass, module: nn.Module, x: Tensor) -> Callable[[], object]:
    """Return a function that runs one pass per call; sets the module's mode.

    "forward" is in eval mode without gradients; "train" is forward and backward in training mode,
    where the backward pass also reaches the input if it requires a gradient.
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


@torch.no_grad()
def router_calls(module: nn.Module, x: Tensor) -> list[Callable[[], Routing]]:
    """Return the router calls of one forward pass, in order, to be repeated without the rest.

    There are none if the module is dense; a call runs in the mode that its router is in by then.
    """
    calls: list[Callable[[], Routing]] = []

    def record(router: nn.Module, arguments: tuple[Any, ...], routing: Routing) -> None:
        calls.append(partial(router, *arguments))

    handles = [router.register_forward_hook(record) for router in routers_of(module)]
    try:
        module(x)
    finally:
        for handle in handles:
            handle.remove()
    return calls


@contextmanager
def kept_for_backward(module: nn.Module) -> Iterator[dict[int, int]]:
    """Record what forward passes keep for the backward pass, except the module's weights.

    Yields:
        The bytes of each storage that autograd keeps, by its address.
    """
    weights = {weight.untyped_storage()._cdata for weight in module.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes
