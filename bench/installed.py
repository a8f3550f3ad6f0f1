"""Where code comes from: an installed distribution, or a file that somebody edits."""

from __future__ import annotations

import inspect
import sys
import sysconfig
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

STANDARD_LIBRARY = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
INSTALLATION_FOLDERS = {"site-packages", "dist-packages"}


def is_installed(file: Path) -> bool:
    """Tell whether a file belongs to the standard library or to an installed distribution.

    What is installed in editable mode lies elsewhere: its source changes without its version.
    """
    inside = any(file.is_relative_to(folder) for folder in STANDARD_LIBRARY)
    return inside or not INSTALLATION_FOLDERS.isdisjoint(file.parts)


def versions_of(module: str) -> dict[str, str]:
    """Return the distributions that install a top-level module, each with its version."""
    return {name: version(name) for name in packages_distributions().get(module, ())}


def search_folders(module: str) -> list[Path]:
    """Return the folders that a top-level module is imported from; none where it is installed.

    A module that is imported already is looked up where it was found then.
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
