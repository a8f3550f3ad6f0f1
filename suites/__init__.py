"""Measurements of routers. Every file in this folder is imported and registers its suites."""

import importlib
import pkgutil

from suites.support.base import (
    SUITES,
    Array,
    Metric,
    MetricDef,
    Suite,
    build_suite,
    layers_and_mean,
    register_suite,
)
from suites.support.subject import HistoryPoint, LayerSubject, Observed, Snapshot, TrialSubject

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
