"""The width of experts at which a model takes what the dense one does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

from bench.compute import Cost, cost_of
from bench.config import DataConfig, TrialSpec
from bench.data import DataShape
from bench.model import EXPERTS
from bench.plan.expand import condition_of
from routers import ROUTERS, Baseline
from routers.errors import RequestError

SOLVED = {"step_flops": "FLOPs of a training step", "params": "parameters"}
"""What is matched by the width of experts."""
FIRST_GUESS = 256


def with_widths(
    specs: Iterable[TrialSpec], shape_of: Callable[[DataConfig], DataShape]
) -> list[TrialSpec]:
    """Solve for the width of experts in the trials that match compute by it; see `found`.

    A whole width may not meet the tolerance: then it is the nearest. A dense model keeps its MLPs;
    the baseline with an MoE's parameters is widened by experts of a width that is solved for too.
    A derived trial has the width of its parent, whose weights it takes over; where that is dense,
    the width that it would have from scratch.

    Args:
        shape_of: of a data set; it need not be there.

    Raises:
        RequestError: the experts have no width, it is set, or would have to be below 1.
    """
    solved: dict[str, TrialSpec] = {}

    def with_width(spec: TrialSpec) -> TrialSpec:
        key = condition_of(spec)
        if key not in solved:
            parent = None if spec.parent is None else with_width(spec.parent)
            solved[key] = _with_width(spec.model_copy(update={"parent": parent}), shape_of)
        return solved[key].with_seed(spec.seed)

    return [with_width(spec) if spec.compute.match in SOLVED else spec for spec in specs]


def _with_width(spec: TrialSpec, shape_of: Callable[[DataConfig], DataShape]) -> TrialSpec:
    matched = f"compute.match = {spec.compute.match}"
    router, experts = ROUTERS.get(spec.router.name).target, EXPERTS.get(spec.experts.name).target
    is_dense = issubclass(router, Baseline) and not router.widen
    name = experts.width
    if name is None:
        if is_dense:
            return spec
        able = [entry.name for entry in EXPERTS.entries() if entry.target.width]
        raise RequestError(
            f"{matched} solves for the width of experts, and experts {spec.experts.name!r} have "
            f"none; {', '.join(able)} have one"
        )
    path, options = f"experts.options.{name}", spec.experts.options
    if options.get(name) is not None:
        raise RequestError(
            f"{matched} solves for {path}, and it is set to {options[name]}: leave out one of the "
            "two"
        )
    spec = spec.model_copy(update={"found": tuple(sorted({*spec.found, path}))})
    if is_dense:
        return spec
    data = shape_of(spec.data)

    def at(width: int | None) -> TrialSpec:
        wider = spec.experts.model_copy(update={"options": {**options, name: width}})
        return spec.model_copy(update={"experts": wider})

    inherited = spec.parent.experts.options.get(name) if spec.parent else None
    if inherited is not None:
        return at(inherited)

    def taken_at(width: int) -> float:
        from_scratch = {"parent": None, "transform": None}
        return _matched(spec, cost_of(at(width).model_copy(update=from_scratch), data))

    target, least = _matched(spec, cost_of(spec.dense(), data)), taken_at(1)
    if least > target * (1 + spec.compute.tolerance):
        less = ", or for less capacity" if spec.compute.match == "step_flops" else ""
        raise RequestError(
            f"{matched}: {spec.router.name} with num_experts = {spec.experts.num_experts} of width "
            f"1 has {least:,.0f} {SOLVED[spec.compute.match]}, and the dense model has "
            f"{target:,.0f}: ask for fewer experts{less}"
        )
    return at(nearest_width(taken_at, target))


def _matched(spec: TrialSpec, cost: Cost) -> float:
    return cost.flops if spec.compute.match == "step_flops" else float(cost.parameters)


def nearest_width(cost: Callable[[int], float], target: float) -> int:
    """Find the whole number, at least 1, at which a growing cost is nearest to a target.

    By false position: where the cost is affine, as that of an MLP in its hidden units, the second
    interpolation ends it.
    """
    cost = cache(cost)
    low, high = 1, FIRST_GUESS
    if cost(low) >= target:
        return low
    while cost(high) < target:
        low, high = high, 4 * high
    while high - low > 1:
        share = (target - cost(low)) / (cost(high) - cost(low))
        middle = min(max(low + round(share * (high - low)), low + 1), high - 1)
        if cost(middle) < target:
            low = middle
        else:
            high = middle
    return min((low, high), key=lambda width: abs(cost(width) - target))
