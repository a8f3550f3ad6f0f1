"""Requests as validated plain data: a trial's settings, presets, and changes to them."""

from bench.config.cluster import ClusterConfig, seconds_in
from bench.config.overrides import (
    check_path,
    cluster_config,
    override,
    presets_of,
    settings_of,
    sweep_of,
    with_routers,
    with_settings,
)
from bench.config.presets import Preset, load_preset, nearest_path
from bench.config.schema import (
    DENSE,
    AugmentConfig,
    ComputeConfig,
    DataConfig,
    ExpertsConfig,
    Match,
    ModelConfig,
    Options,
    Pruner,
    RouterConfig,
    SearchOptions,
    SearchRange,
    TrainConfig,
    TrialSpec,
    TuneConfig,
)
