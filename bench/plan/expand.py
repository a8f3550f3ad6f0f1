"""The expansion of a preset into trials, each fully resolved, down to its experts' width."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from itertools import product

from bench.compute import cost_of
from bench.config import (
    DataConfig,
    ExpertsConfig,
    ModelConfig,
    Preset,
    RouterConfig,
    TrainConfig,
    TrialSpec,
    check_path,
    override,
    presets_of,
)
from bench.data import Datasets, DataShape, has_size, load_with_shape
from bench.model import EXPERTS, TRANSFORMS
from bench.plan.router_options import (
    affinity_options_in,
    options_of,
    refuse_unknown,
    refuse_unknown_options,
)
from results.text import to_json
from routers import AFFINITIES, LOSSES, ROUTERS, Baseline, Entry
from routers.errors import RequestError, nearest

SOLVED = {"step_flops": "FLOPs of a training step", "params": "parameters"}
"""Quantities that are matched by the width of experts."""
FIRST_GUESS = 256


def solved_specs(preset: Preset, datasets: Datasets) -> list[TrialSpec]:
    """List every trial of a preset, with its experts' width solved for if compute is matched by it.

    Raises:
        BenchError: something does not exist or does not fit.
    """
    return with_widths(trial_specs(preset), lambda data: load_with_shape(data, datasets)[0])


def trial_specs(preset: Preset) -> list[TrialSpec]:
    """List every trial of a preset: all routers with one seed, then all with the next.

    This way an interrupted run leaves a balanced comparison. Routers that a sweep does not affect
    appear once.

    Raises:
        RequestError: a name, a hyper-parameter or an option does not exist or does not fit.
    """
    by_condition = [spec for condition in conditions(preset) for spec in _of_parts(condition)]
    if preset.twins:
        replicated = [spec for spec in by_condition if not _is_baseline(spec.router.name)]
        by_condition += map(_aa_replicate, replicated)
    once = {condition_of(spec): spec for spec in by_condition}
    return [spec.with_seed(seed) for seed in range(preset.seeds) for spec in once.values()]


def condition_of(spec: TrialSpec) -> str:
    """Return a key that is the same for trials that differ only in their seed."""
    return to_json(spec.condition())


def conditions(preset: Preset) -> list[Preset]:
    """List the preset with each combination of the values that it sweeps over.

    Raises:
        RequestError: a path does not lead to a setting, or a value does not fit.
    """
    for path in preset.sweep:
        check_path(path, preset.every_router())
    fixed = preset.model_copy(update={"sweep": {}})
    return [
        override(fixed, dict(zip(preset.sweep, values, strict=True)))
        for values in product(*preset.sweep.values())
    ]


def selected_routers(preset: Preset) -> list[Entry]:
    """List the routers that the preset and its parts name, in the order given.

    Raises:
        RequestError: a router does not exist, or none is named.
    """
    chosen = preset.every_router()
    if not (names := ROUTERS.names() if chosen == "all" else chosen):
        raise RequestError("no router is named; give --routers a,b or --routers all")
    return [ROUTERS.get(name) for name in names]


def _is_baseline(name: str) -> bool:
    return issubclass(ROUTERS.get(name).target, Baseline)


def has_no_experts(router: str) -> bool:
    """Tell whether a router leaves the model dense and does not widen it."""
    return _is_baseline(router) and not ROUTERS.get(router).target.widen


def _aa_replicate(spec: TrialSpec) -> TrialSpec:
    """Return the trial's A/A replicate, derived from its parent's replicate.

    A baseline has no MoE layer to initialise again, so a baseline parent has no replicate.
    """
    parent = spec.parent
    if parent is not None and not _is_baseline(parent.router.name):
        parent = _aa_replicate(parent)
    return spec.model_copy(update={"twin": 1, "parent": parent})


def _of_parts(preset: Preset) -> list[TrialSpec]:
    """List the trials of all parts in order, with seed 0; derived trials follow their parents."""
    latest: dict[str, TrialSpec] = {}
    trials: list[TrialSpec] = []
    for whole, part in zip(preset.parts or (None,), presets_of(preset), strict=True):
        made: dict[str, list[TrialSpec]] = defaultdict(list)
        for single in part:
            refuse_unknown(single.router, ROUTERS.entries())
            refuse_unknown_options(affinity_options_in(single.router), AFFINITIES.entries())
            chosen = selected_routers(single)
            own = {router.name: _spec_of(single, router) for router in chosen}
            if whole is not None and (wanted := whole.parent) is not None:
                transform = TRANSFORMS.get(wanted.transform).name
                start = _parent_of(wanted.router, (own if len(own) > 1 else {}) | latest)
                own = {
                    # A parent that is a trial of the part itself stays as it is.
                    name: spec if spec is start else spec.derived(start, transform)
                    for name, spec in own.items()
                }
            for name, spec in own.items():
                made[name].append(spec)
            trials += own.values()
        # A sweep leaves no single trial to derive from; a sweep of children leaves their parent.
        latest = {n: spec for n, spec in latest.items() if n not in made or made[n][0].parent}
        latest |= {name: specs[0] for name, specs in made.items() if len(specs) == 1}
    return trials


def _parent_of(router: str, earlier: dict[str, TrialSpec]) -> TrialSpec:
    if router not in earlier:
        raise RequestError(
            f"no single trial of router {router!r} comes before its children, in a part that does "
            f"not sweep{nearest(router, earlier)}"
        )
    return earlier[router]


def _spec_of(preset: Preset, router: Entry) -> TrialSpec:
    """Return a router's trial, with seed 0 and the settings tuned for this router."""
    tuned, preset = preset.tuned.get(router.name, {}), preset.model_copy(update={"tuned": {}})
    preset = override(preset, tuned, f"the tuned settings of {router.name}")
    experts = _with_options(preset.experts)
    if has_no_experts(router.name):  # so a sweep over experts gives one trial
        experts = _with_options(ExpertsConfig())
    train = _with_losses(preset.train)
    without_losses = train.model_copy(update={"losses": {}, "loss_options": {}})
    return TrialSpec(
        router=RouterConfig(name=router.name, options=options_of(preset, router)),
        experts=experts,
        model=preset.model,
        data=_sized(preset.data, preset.model),
        train=without_losses if _is_baseline(router.name) else train,
        compute=preset.compute,
        found=tuple(sorted(tuned)),
    )


def _sized(data: DataConfig, model: ModelConfig) -> DataConfig:
    """Use the model's image size, if it is known, for images that have no size of their own."""
    if data.image_size is not None or has_size(data.name):
        return data
    size = model.options.get("img_size")
    if size is None:
        from bench.model.timm_models import require_model

        usual = require_model(model.name)
        size = usual and usual.input_size[-1]
    return data.model_copy(update={"image_size": size}) if isinstance(size, int) else data


def _with_options(experts: ExpertsConfig) -> ExpertsConfig:
    """Fill in every option of the experts."""
    options = EXPERTS.get(experts.name).validate(experts.options)
    return experts.model_copy(update={"options": options})


def _with_losses(train: TrainConfig) -> TrainConfig:
    """Fill in every option of a recipe's auxiliary losses."""
    for name in train.loss_options:
        if name not in train.losses:
            raise RequestError(
                f"train.loss_options names {name!r}, which has no weight in train.losses"
                f"{nearest(name, train.losses)}"
            )
    options = {
        name: LOSSES.get(name).validate(train.loss_options.get(name, {})) for name in train.losses
    }
    return train.model_copy(update={"loss_options": options})


def with_widths(
    specs: Iterable[TrialSpec], shape_of: Callable[[DataConfig], DataShape]
) -> list[TrialSpec]:
    """Solve for the experts' width in the trials that match compute by it.

    If no integer width meets the tolerance, the nearest is taken. A dense model keeps its MLPs; the
    baseline with an MoE's parameters is widened by experts whose width is solved for too. A derived
    trial has the width of its parent, whose weights it takes over; if the parent is dense, it has
    the width that it would have from scratch.

    Args:
        shape_of: returns the shape of a data set, which need not be present.

    Raises:
        RequestError: the experts have no width, it is already set, or it would have to be below 1.
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
    is_dense = has_no_experts(spec.router.name)
    name = EXPERTS.get(spec.experts.name).target.width
    if name is None:
        if is_dense:
            return spec
        able = [entry.name for entry in EXPERTS.entries() if entry.target.width]
        raise RequestError(
            f"{matched} solves for the width of experts, and experts {spec.experts.name!r} have "
            f"none; {', '.join(able)} have one"
        )
    path, options = f"experts.options.{name}", spec.experts.options
    if (width := options.get(name)) is not None:
        raise RequestError(
            f"{matched} solves for {path}, and it is set to {width}: leave out one of the two"
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

    def taken_by(of: TrialSpec) -> float:
        cost = cost_of(of.model_copy(update={"parent": None, "transform": None}), data)
        return cost.flops if spec.compute.match == "step_flops" else float(cost.parameters)

    def taken_at(width: int) -> float:
        return taken_by(at(width))

    target, least = taken_by(spec.dense()), taken_at(1)
    if least > target * (1 + spec.compute.tolerance):
        less = ", or for less capacity" if spec.compute.match == "step_flops" else ""
        raise RequestError(
            f"{matched}: {spec.router.name} with num_experts = {spec.experts.num_experts} of width "
            f"1 has {least:,.0f} {SOLVED[spec.compute.match]}, and the dense model has "
            f"{target:,.0f}: ask for fewer experts{less}"
        )
    return at(nearest_width(taken_at, target))


def nearest_width(cost: Callable[[int], float], target: float) -> int:
    """Return the integer, at least 1, at which an increasing cost is nearest to a target.

    Uses false position, which ends at the second step if the cost is affine, like that of an MLP.
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
