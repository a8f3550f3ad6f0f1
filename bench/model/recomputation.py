"""Layers that autograd runs again: activation checkpointing recomputes them in a backward pass.

A recomputation has to see what the layer saw at first. Which pass it repeats is told by the node of
the autograd graph that asks for it: nodes are numbered in the order in which a thread makes them,
and a pass knows the numbers of its own.
"""

from __future__ import annotations

import threading
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from routers import RequestError, RouterContext, Routing


def backward_task() -> int:
    """Return the number of the backward pass that runs in this thread; -1 where none does."""
    return -1 if torch.compiler.is_compiling() else torch._C._current_graph_task_id()


@dataclass(frozen=True, eq=False)
class FirstCall:
    """The context of a router when its layer first ran, without its graph."""

    context: RouterContext
    noise: Tensor | None

    @classmethod
    def of(cls, context: RouterContext) -> FirstCall:
        """Take note of a context before its generator is drawn from."""
        before = context.previous_logits
        if before is not None and before.requires_grad:
            context = replace(context, previous_logits=without_gradient(before))
        return cls(context, context.generator.get_state() if context.generator else None)

    def again(self) -> RouterContext:
        """Return the context for a repetition; its generator draws what was drawn at first."""
        if self.noise is None:
            return self.context
        assert self.context.generator is not None  # whose state the noise is
        generator = torch.Generator(self.context.generator.device)
        generator.set_state(self.noise)
        return replace(self.context, generator=generator)


@dataclass(eq=False)
class Tape:
    """The first calls of a pass's layers, kept for as long as its graph is.

    Attributes:
        first: number of the pass's first node.
        end: number after its last node; none while it runs.
        calls: the first call of each layer; None for a layer that ran twice.
    """

    first: int = field(default_factory=torch._C._autograd._get_sequence_nr)
    end: int | None = None
    thread: int = field(default_factory=threading.get_ident)
    calls: dict[nn.Module, FirstCall | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with _LOCK:
            _TAPES.add(self)

    def add(self, layer: nn.Module, context: RouterContext) -> None:
        """Take note of a layer's call."""
        self.calls[layer] = None if layer in self.calls else FirstCall.of(context)

    def finish(self, outputs: Any) -> None:
        """Mark the end of the pass: later nodes do not belong to it."""
        self.keep_with(outputs)
        self.end = torch._C._autograd._get_sequence_nr()

    def keep_with(self, outputs: Any) -> None:
        """Keep the tape alive for as long as the graph of these tensors is."""
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor) and output.grad_fn is not None:
                # A property, which torch's stubs call a method.
                output.grad_fn.metadata[id(self)] = self  # type: ignore[index]

    def covers(self, node: int) -> bool:
        """Tell whether a node was made in the pass."""
        return self.first <= node and (self.end is None or node < self.end)


_TAPES: WeakSet[Tape] = WeakSet()
_LOCK = threading.Lock()


def first_call(layer: nn.Module, may_be_new: bool) -> FirstCall | None:
    """Find the call that a layer repeats in a backward pass; None where it is no repetition.

    Args:
        may_be_new: whether the layer belongs to a pass that began in the backward pass.

    Raises:
        RequestError: it cannot be told which of several calls it repeats.
    """
    with _LOCK:
        tapes = [tape for tape in _TAPES if layer in tape.calls]
    node = torch._C._current_autograd_node()
    number = -1 if node is None else node._sequence_nr()
    covering = [tape for tape in tapes if tape.covers(number)]
    if not tapes or (may_be_new and not covering):
        return None
    innermost = max(covering, key=lambda tape: tape.first, default=None)
    call = None if innermost is None else innermost.calls[layer]
    if call is None or len({tape.thread for tape in covering}) > 1:
        raise RequestError(
            "activation checkpointing runs an MoE layer again, and it cannot be told which call of "
            "it: run it once in each forward_pass, in one thread at a time, with no checkpoint "
            "inside another"
        )
    return call


def without_gradient(tensor: Tensor) -> Tensor:
    """Return a copy outside the graph, through which it is an error to differentiate."""
    leaf = tensor.detach().requires_grad_()
    leaf.register_hook(_refuse)
    return leaf


def outside_the_graph(routing: Routing) -> Routing:
    """Return a routing that was made without a graph, in a pass that has one."""
    bare = copy(routing)
    for name, value in vars(routing).items():
        if isinstance(value, Tensor) and value.is_floating_point():
            object.__setattr__(bare, name, without_gradient(value))
    return bare


def _refuse(gradient: Tensor) -> Tensor:
    raise RequestError(
        "a routing of a layer that ran without gradients cannot be differentiated: checkpoint the "
        "model with use_reentrant=False, or leave the routing out of the loss"
    )
