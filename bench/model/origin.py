"""Where a timm model comes from: an installed distribution, or source that somebody edits."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bench.installed import defining_files, is_installed, search_folders, versions_of
from moe_router_bench import PACKAGES

Origin = tuple[dict[str, str], Iterable[Any]]
"""The versions of installed distributions, and functions and classes of any other source."""


def model_origin(name: str) -> Origin:
    """Return what the code of a model is identified by.

    Only a plugin that has imported timm can have registered a model of its own, so timm, which
    takes seconds to import, is not imported for an installed model.

    Returns:
        The version of each installed distribution that it comes from, timm always among them; and
        the function that builds it where it is not installed. This repository's own model counts
        as part of the training protocol, not here.
    """
    versions = _timm_version()
    if "timm" not in sys.modules and not search_folders("timm"):
        return versions, []
    from bench.model.timm_models import timm

    function = timm.models.model_entrypoint(name) if timm.is_model(name) else None
    module = function.__module__.partition(".")[0] if function else "timm"
    if module in PACKAGES:
        return versions, []
    files = defining_files(function) if function else []
    if module == "timm" and all(is_installed(file.resolve()) for file in files):
        return versions, []
    others = {} if module == "timm" else versions_of(module)
    edited = any(not is_installed(file.resolve()) for file in files)
    return versions | others, [] if others and not edited else [function]


def registering_modules() -> set[str]:
    """Return the modules that have registered a model; none before timm is imported."""
    if "timm" not in sys.modules:
        return set()
    from bench.model.timm_models import timm

    return {timm.models.model_entrypoint(name).__module__ for name in timm.list_models()}


def _timm_version() -> dict[str, str]:
    try:
        return {"timm": version("timm")}
    except PackageNotFoundError:  # a copy of its source on the path of modules
        return {}
