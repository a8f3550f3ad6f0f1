"""The state of a forward pass: its context for routers and its routings."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.model.recomputation import Tape, backward_task, first_call, outside_the_graph
from routers import RequestError, RouterContext, Routing


@dataclass(eq=False)
class Pass:
    """A pass of a model, or all calls inside one `forward_pass`.

    Attributes:
        models: the models whose layers belong to the pass.
        context: the context of every router.
        routings: the recorded routings; None if they are not recorded.
        called: whether the pass is one call of the model.
        with_grad: whether gradients were enabled when it began.
        task: the backward pass in which it began, the only one it covers; -1 for none.
        tape: what recomputing its layers needs; None if they will not be recomputed.
        previous_logits: logits of the layer that ran last.
    """

    models: tuple[ModelPasses, ...]
    context: RouterContext
    routings: list[Routing] | None
    called: bool = False
    with_grad: bool = field(default_factory=torch.is_grad_enabled)
    task: int = field(default_factory=backward_task)
    tape: Tape | None = None
    previous_logits: Tensor | None = None

    def __post_init__(self) -> None:
        if self.with_grad and not torch.compiler.is_compiling():
            self.tape = Tape()

    @property
    def writable_tape(self) -> Tape | None:
        """The tape; None under torch's compiler, which handles recomputation itself."""
        return None if torch.compiler.is_compiling() else self.tape

    def require_graph(self, inputs: tuple[Any, ...]) -> None:
        """Raise an error if a checkpoint will rerun this with gradients, unseen by this pass."""
        wanted = any(isinstance(x, Tensor) and x.requires_grad for x in inputs)
        if wanted and self.with_grad and not torch.is_grad_enabled():
            raise RequestError(
                "forward_pass cannot follow a model that is checkpointed as a whole with "
                "use_reentrant=True: use use_reentrant=False, or checkpoint its blocks"
            )

    def finish(self, output: Any = None) -> None:
        """Mark the end of the pass; later layers do not belong to it."""
        if (tape := self.writable_tape) is not None:
            tape.finish(output)


@dataclass(frozen=True, eq=False)
class LayerCall:
    """One call of an MoE layer.

    Attributes:
        context: the context of its router.
        run: the pass that it belongs to; None if it is a recomputation or runs outside a pass.
    """

    context: RouterContext
    run: Pass | None = None

    def record(self, routing: Routing) -> None:
        """Record the router's result in the pass."""
        if self.run is None:
            return
        if self.run.called and self.run.with_grad and not torch.is_grad_enabled():
            routing = outside_the_graph(routing)
        if self.run.routings is not None:
            self.run.routings.append(routing)
        self.run.previous_logits = routing.logits

    def keep_with(self, output: Tensor) -> None:
        """Keep the call's record alive as long as the output's graph."""
        if self.run is not None and (tape := self.run.writable_tape) is not None:
            tape.keep_with(output)


class ModelPasses:
    """The passes of one model, which its MoE layers share."""

    def open_around(self, model: nn.Module) -> None:
        """Make each call of the model a pass."""
        model.register_forward_pre_hook(self._begin)
        model.register_forward_hook(self._end, always_call=True)

    def call(self, layer: nn.Module, x: Tensor) -> LayerCall:
        """Begin a call of one of the model's layers and return it."""
        task = backward_task()
        run = self._running(task)
        if task >= 0 and (first := first_call(layer, may_be_new=run is not None)):
            return LayerCall(first.again())
        if run is None:
            return LayerCall(RouterContext())
        if not run.called:
            run.require_graph((x,))
        context = replace(run.context, previous_logits=run.previous_logits)
        if (tape := run.writable_tape) is not None:
            tape.add(layer, context)
        return LayerCall(context, run)

    def _begin(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        while self._called():  # that call was interrupted
            _RUNNING.passes.pop()
        around = self._running(backward_task())
        if around is None:
            run = Pass((self,), RouterContext(), None, called=True)
        else:
            around.require_graph(inputs)
            run = Pass((self,), around.context, around.routings, called=True)
        _RUNNING.passes.append(run)

    def _end(self, model: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if run := self._called():
            _RUNNING.passes.pop()
            run.finish(output)

    def _called(self) -> Pass | None:
        """Return this thread's innermost pass if it is a call of the model; else None."""
        last = _RUNNING.passes[-1] if _RUNNING.passes else None
        return last if last and last.called and last.models == (self,) else None

    def _running(self, task: int) -> Pass | None:
        """Return the innermost pass of the model in this thread and backward pass, if any."""
        for run in reversed(_RUNNING.passes):
            if run.task == task and any(model is self for model in run.models):
                return run
        return None


class _Running(threading.local):
    """The passes running in a thread, the innermost last."""

    def __init__(self) -> None:
        self.passes: list[Pass] = []


_RUNNING = _Running()


@contextmanager
def forward_pass(
    model: nn.Module,
    *,
    labels: Tensor | None = None,
    step: int | None = None,
    generator: torch.Generator | None = None,
    mask: Tensor | None = None,
) -> Iterator[list[Routing]]:
    """Record the routings of a model's forward pass.

        with forward_pass(model) as routings:
            logits = model(images)

    It applies to its thread, until a nested one begins. When activation checkpointing reruns a
    layer in a backward pass, the layer gets its first context, noise included, and is not recorded
    again. Checkpoints with use_reentrant=True first run without gradients: differentiating one of
    their routings is an error.

    Args:
        model: the result of `moefy`, or a dense model, which records nothing.
        labels: (batch,) long, for routers that read them.
        step: training step, from 0.
        generator: source of the routers' noise, on the model's device.
        mask: (batch, tokens) bool, false for padding. timm's NaFlexViT passes its own mask itself.

    Yields:
        A list that fills with one `Routing` for each MoE layer, in network order.
    """
    # Not getattr: modules without it would search their parameters and submodules for it.
    candidates = (vars(module).get("passes") for module in model.modules())
    models = {id(passes): passes for passes in candidates if isinstance(passes, ModelPasses)}
    context = RouterContext(generator, step, labels, mask=mask)
    routings: list[Routing] = []
    around = len(_RUNNING.passes)
    run = Pass(tuple(models.values()), context, routings)
    _RUNNING.passes.append(run)
    try:
        yield routings
    finally:
        del _RUNNING.passes[around:]
        run.finish()
