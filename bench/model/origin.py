"""The origin of a timm model: an installed distribution, edited source or a file of weights."""

from __future__ import annotations

import inspect
import sys
import sysconfig
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.data import file_sha256
from moe_router_bench import PACKAGES
from routers import RequestError

STANDARD_LIBRARY = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
INSTALLATION_FOLDERS = {"site-packages", "dist-packages"}


def is_installed(file: Path) -> bool:
    """Tell whether a file belongs to the standard library or to an installed distribution.

    An editable installation does not count, since its source changes without its version.
    """
    inside = any(file.is_relative_to(folder) for folder in STANDARD_LIBRARY)
    return inside or not INSTALLATION_FOLDERS.isdisjoint(file.parts)


def search_folders(module: str) -> list[Path]:
    """Return the folders that a top-level module is imported from; none if it is installed.

    If the module has already been imported, the folder is the one that it came from.
    """
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):  # a module without a specification, such as `__main__`
        return []
    if spec is None:
        return []
    single = [spec.origin] if spec.origin and spec.has_location else []
    places = [Path(place) for place in spec.submodule_search_locations or single]
    return [place.parent.resolve() for place in places if not is_installed(place.resolve())]


def defining_files(target: Any) -> list[Path]:
    """Return the files that define a class or function and, if there is one, its decorator."""
    inner = inspect.unwrap(target)
    module = sys.modules.get(getattr(inner, "__module__", ""))
    files = {inspect.getsourcefile(each) for each in (module, target, inner) if each is not None}
    return sorted(Path(file) for file in files if file)


Origin = tuple[dict[str, str], Iterable[Any]]
"""The versions of installed distributions, and the functions and classes from other sources."""


def model_origin(name: str) -> Origin:
    """Return what identifies the code of a model.

    timm takes seconds to import, and only a plugin that has imported it can have registered a model
    of its own; so timm is not imported for an installed model.

    Returns:
        The version of each installed distribution that the model comes from, always including timm;
        and the function that builds it, if that is not installed. This repository's own models
        count as part of the training protocol instead.
    """
    try:
        versions = {"timm": version("timm")}
    except PackageNotFoundError:  # a copy of its source on sys.path
        versions = {}
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
    others = {}
    if module != "timm":
        others = {name: version(name) for name in packages_distributions().get(module, ())}
    edited = any(not is_installed(file.resolve()) for file in files)
    return versions | others, [] if others and not edited else [function]


def registering_modules() -> set[str]:
    """Return the modules that have registered a model; none until timm is imported."""
    if "timm" not in sys.modules:
        return set()
    from bench.model.timm_models import timm

    return {timm.models.model_entrypoint(name).__module__ for name in timm.list_models()}


def pretrained_hash(file: str) -> str:
    """Hash a file of pretrained weights (SHA-256, hex); `RequestError` if there is no such file."""
    return file_sha256(require_file(file))


def require_file(weights: str) -> Path:
    """Return the path of a file of weights; `RequestError` if there is no such file."""
    if not Path(weights).is_file():
        raise RequestError(f"model.weights = {weights!r}: there is no such file")
    return Path(weights)
