"""Layers that activation checkpointing recomputes in a backward pass.

A recomputation must see what the layer saw at first. The node of the autograd graph that triggers
it identifies the pass that it repeats: nodes are numbered in the order in which a thread creates
them, and a pass knows the numbers of its own.
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
    """Return the number of the backward pass that runs in this thread; -1 if none does."""
    return -1 if torch.compiler.is_compiling() else torch._C._current_graph_task_id()


@dataclass(frozen=True, eq=False)
class FirstCall:
    """The context of a router when its layer first ran, without its graph."""

    context: RouterContext
    noise: Tensor | None

    @classmethod
    def of(cls, context: RouterContext) -> FirstCall:
        """Record a context before numbers are drawn from its generator."""
        before = context.previous_logits
        if before is not None and before.requires_grad:
            context = replace(context, previous_logits=without_gradient(before))
        return cls(context, context.generator.get_state() if context.generator else None)

    def again(self) -> RouterContext:
        """Return the context for a recomputation; its generator repeats the first draws."""
        if self.noise is None:
            return self.context
        assert self.context.generator is not None  # `noise` is its state
        generator = torch.Generator(self.context.generator.device)
        generator.set_state(self.noise)
        return replace(self.context, generator=generator)


@dataclass(eq=False)
class Tape:
    """The first calls of a pass's layers, kept as long as the pass's graph.

    Attributes:
        first: number of the pass's first node.
        end: one more than the number of its last node; None while it runs.
        calls: the first call of each layer; None for a layer that ran more than once.
    """

    first: int = field(default_factory=torch._C._autograd._get_sequence_nr)
    end: int | None = None
    thread: int = field(default_factory=threading.get_ident)
    calls: dict[nn.Module, FirstCall | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with _LOCK:
            _TAPES.add(self)

    def add(self, layer: nn.Module, context: RouterContext) -> None:
        """Record a layer's call."""
        self.calls[layer] = None if layer in self.calls else FirstCall.of(context)

    def finish(self, outputs: Any) -> None:
        """Mark the end of the pass; later nodes do not belong to it."""
        self.keep_with(outputs)
        self.end = torch._C._autograd._get_sequence_nr()

    def keep_with(self, outputs: Any) -> None:
        """Keep the tape alive as long as the graph of these tensors."""
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor) and output.grad_fn is not None:
                # It is a property, but torch's stubs declare a method.
                output.grad_fn.metadata[id(self)] = self  # type: ignore[index]

    def covers(self, node: int) -> bool:
        """Tell whether a node was created in the pass."""
        return self.first <= node and (self.end is None or node < self.end)


_TAPES: WeakSet[Tape] = WeakSet()
_LOCK = threading.Lock()


def first_call(layer: nn.Module, may_be_new: bool) -> FirstCall | None:
    """Return the call that a layer repeats in a backward pass; None if it is not a repetition.

    Args:
        may_be_new: whether the layer belongs to a pass that began in the backward pass.

    Raises:
        RequestError: it is ambiguous which of several calls the layer repeats.
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
            "activation checkpointing reruns an MoE layer, but it is ambiguous which call: run it "
            "once in each forward_pass, in one thread at a time, with no checkpoint inside another"
        )
    return call


def without_gradient(tensor: Tensor) -> Tensor:
    """Return a copy outside the graph; differentiating through it is an error."""
    leaf = tensor.detach().requires_grad_()
    leaf.register_hook(_refuse)
    return leaf


def outside_the_graph(routing: Routing) -> Routing:
    """Return a copy of a routing that was made without gradients; using them is an error."""
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
