"""The expansion of a preset into trials, each fully resolved and validated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import product
from typing import Any

from bench.config import (
    DataConfig,
    ModelConfig,
    Options,
    ParentConfig,
    Preset,
    RouterConfig,
    TrainConfig,
    TrialSpec,
    check_path,
    nearest_path,
    override,
    presets_of,
)
from bench.data import has_size
from bench.model import EXPERTS, TRANSFORMS
from results.text import to_json
from routers import LOSSES, ROUTERS, Baseline, Entry
from routers.errors import RequestError, nearest


def trial_specs(preset: Preset) -> list[TrialSpec]:
    """List every trial of a preset, one seed of all routers before the next seed.

    So an interrupted run leaves a balanced comparison. Routers that a sweep does not concern
    appear once.

    Raises:
        RequestError: a name, a hyper-parameter or an option that does not exist or fit.
    """
    by_condition = [spec for condition in conditions(preset) for spec in _of_parts(condition)]
    if preset.twins:
        by_condition += [
            _aa_replicate(spec) for spec in by_condition if not _is_baseline(spec.router.name)
        ]
    once = {condition_of(spec): spec for spec in by_condition}
    return [spec.with_seed(seed) for seed in range(preset.seeds) for spec in once.values()]


def condition_of(spec: TrialSpec) -> str:
    """Return a key that trials share which differ in the seed alone."""
    return to_json(spec.condition())


def conditions(preset: Preset) -> list[Preset]:
    """List the preset at each combination of the values that it sweeps over.

    Raises:
        RequestError: a path that leads to no setting, or a value that does not fit.
    """
    for path in preset.sweep:
        check_path(path, preset.every_router())
    fixed = preset.model_copy(update={"sweep": {}})
    combinations = product(*preset.sweep.values())
    return [
        override(fixed, dict(zip(preset.sweep, values, strict=True))) for values in combinations
    ]


def selected_routers(preset: Preset) -> list[Entry]:
    """List the routers that the preset and its parts name, in their order.

    Raises:
        RequestError: there is no router of a name, or none is named.
    """
    chosen = preset.every_router()
    names = ROUTERS.names() if chosen == "all" else chosen
    if not names:
        raise RequestError("no router is named; give --routers a,b or --routers all")
    return [ROUTERS.get(name) for name in names]


def refuse_unknown(names: Iterable[str], routers: Iterable[Entry]) -> None:
    """Refuse hyper-parameters that none of these routers has.

    Raises:
        RequestError: naming the nearest.
    """
    routers = list(routers)
    known = {field for router in routers for field in router.hyper_model.model_fields}
    for name in names:
        if name in known:
            continue
        hint = nearest_path(f"router.{name}", sorted(f"router.{field}" for field in known))
        if all(issubclass(router.target, Baseline) for router in routers):
            hint = "; baselines have no hyper-parameters"
        raise RequestError(f"none of the chosen routers has 'router.{name}'{hint}")


def _aa_replicate(spec: TrialSpec) -> TrialSpec:
    """Return the trial's A/A replicate; that of a derived trial starts from its parent's replicate.

    A baseline has no MoE layer to draw again, so a parent that is a baseline has no replicate.
    """
    parent = spec.parent
    if parent is not None and not _is_baseline(parent.router.name):
        parent = _aa_replicate(parent)
    return spec.model_copy(update={"twin": 1, "parent": parent})


def _is_baseline(name: str) -> bool:
    return issubclass(ROUTERS.get(name).target, Baseline)


def _of_parts(preset: Preset) -> list[TrialSpec]:
    """List the trials of all parts in order, with seed 0; derived trials follow their parents."""
    latest: dict[str, TrialSpec] = {}
    trials: list[TrialSpec] = []
    for whole, part in zip(preset.parts or (None,), presets_of(preset), strict=True):
        made: dict[str, list[TrialSpec]] = defaultdict(list)
        for single in part:
            own = {spec.router.name: spec for spec in _specs_of(single, selected_routers(single))}
            if whole is not None and whole.parent is not None:
                own = _derived(own, {**own, **latest}, whole.parent)
            for name, spec in own.items():
                made[name].append(spec)
            trials += own.values()
        # Of a part that sweeps, no trial is the one that others could start from.
        latest = {name: spec for name, spec in latest.items() if name not in made}
        latest |= {name: specs[0] for name, specs in made.items() if len(specs) == 1}
    return trials


def _derived(
    specs: dict[str, TrialSpec], there: dict[str, TrialSpec], asked: ParentConfig
) -> dict[str, TrialSpec]:
    """Derive the trials of a part from the earlier trial of the parent's router.

    A parent that is a trial of the part itself stays as it is.
    """
    transform = TRANSFORMS.get(asked.transform).name
    if asked.router not in there:
        hint = nearest(asked.router, there)
        raise RequestError(
            f"no single trial of router {asked.router!r} comes before its children, in a part "
            f"that does not sweep{hint}"
        )
    parent = there[asked.router]
    return {
        name: spec if spec is parent else spec.derived(parent, transform)
        for name, spec in specs.items()
    }


def _specs_of(preset: Preset, routers: Iterable[Entry]) -> list[TrialSpec]:
    """List one trial of each router, with seed 0."""
    refuse_unknown(preset.router, ROUTERS.entries())
    return [_spec_of(preset, router) for router in routers]


def _spec_of(preset: Preset, router: Entry) -> TrialSpec:
    """Return the trial of a router, with what was found for it alone."""
    tuned = preset.tuned.get(router.name, {})
    preset = override(
        preset.model_copy(update={"tuned": {}}), tuned, f"what was found for {router.name}"
    )
    experts = preset.experts.model_copy(
        update={"options": EXPERTS.get(preset.experts.name).validate(preset.experts.options)}
    )
    train = _with_losses(preset.train)
    without_losses = train.model_copy(update={"losses": {}, "loss_options": {}})
    return TrialSpec(
        router=RouterConfig(name=router.name, options=_options_of(router, preset.router)),
        experts=experts,
        model=preset.model,
        data=_sized(preset.data, preset.model),
        train=without_losses if _is_baseline(router.name) else train,
        compute=preset.compute,
        found=tuple(sorted(tuned)),
    )


def _options_of(router: Entry, shared: Options) -> Options:
    """Return the shared hyper-parameters that this router has, and its defaults."""
    known = router.hyper_model.model_fields
    options: dict[str, Any] = router.validate(
        {name: value for name, value in shared.items() if name in known}
    )
    return options


def _sized(data: DataConfig, model: ModelConfig) -> DataConfig:
    """Set the model's image size, where it is known, for images without a size of their own."""
    if data.image_size is not None or has_size(data.name):
        return data
    size = model.options.get("img_size")
    if size is None:
        from bench.model.timm_models import timm

        usual = timm.get_pretrained_cfg(model.name)
        size = usual and usual.input_size[-1]
    return data.model_copy(update={"image_size": size}) if isinstance(size, int) else data


def _with_losses(train: TrainConfig) -> TrainConfig:
    """Return the recipe with every option of its auxiliary losses filled in."""
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
