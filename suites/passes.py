"""Single passes through a layer or model, as they are timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from routers.router import Router
from routers.routing import Routing
from suites.subject import routers_of

Pass = Literal["forward", "train"]
PASSES: tuple[Pass, ...] = ("forward", "train")


def one_pass(name: Pass, module: nn.Module, x: Tensor) -> Callable[[], object]:
    """What runs one pass, each time anew.

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
        """The router alone, in the mode that it is in."""
        routing: Routing = self.router(*self.arguments)
        return routing


@torch.no_grad()
def router_calls(module: nn.Module, x: Tensor) -> list[RouterCall]:
    """The calls of routers in one forward pass, in order; none where the module is dense."""
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
