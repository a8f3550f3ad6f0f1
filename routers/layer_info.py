"""What a router may need to know of the layer that it stands in."""

from __future__ import annotations

import math
from dataclasses import dataclass

from routers.errors import RequestError


@dataclass(frozen=True)
class Site:
    """Facts that few routers read; the defaults are those of a layer of MLPs on patches.

    Attributes:
        token_shape: of a token that is no vector, as (c, h, w); routers see it flattened.
        levels: sizes of the expert modes, whose product is E; none where there is one mode.
        expert_hidden: width of the experts' hidden activations; None where they have none.
    """

    token_shape: tuple[int, ...] | None = None
    levels: tuple[int, ...] = ()
    expert_hidden: int | None = None


def two_levels(num_experts: int) -> tuple[int, int]:
    """The sizes of two expert modes, as equal as they can be, ascending: 1024 -> (32, 32).

    Raises:
        RequestError: E has no divisors but 1 and itself.
    """
    first = next(n for n in range(math.isqrt(num_experts), 0, -1) if num_experts % n == 0)
    if first == 1:
        # One more than a prime is even.
        raise RequestError(
            f"num_experts = {num_experts} cannot be split into two levels; "
            f"{max(4, num_experts + 1)} can, as {two_levels(max(4, num_experts + 1))}"
        )
    return first, num_experts // first
