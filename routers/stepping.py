"""The end of a training step, for routers that update state without a gradient."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from routers.router import Router
from routers.routing import Routing


def listens(router: Router) -> bool:
    """Tell whether a router overrides `after_step` or `after_model_step`."""
    kind = type(router)
    hooks = (kind.after_step, kind.after_model_step)
    return hooks != (Router.after_step, Router.after_model_step)


def step_stats(routing: Routing) -> dict[str, Tensor]:
    """Collect the statistics of one micro-batch for `Router.after_step`; they can be summed."""
    counts = {"load": routing.expert_load(), "demand": routing.demand()}
    return {**{name: count.sum(0) for name, count in counts.items()}, **routing.statistics}


def finish_step(routers: Sequence[Router], stats: Sequence[dict[str, Tensor]]) -> None:
    """Call `after_step` and `after_model_step` of a model's routers.

    Args:
        routers: in network order.
        stats: the `step_stats` of each router, summed over the micro-batches of the step.
    """
    for router, own in zip(routers, stats, strict=True):
        router.after_step(own)
        router.after_model_step(stats)
