"""Importing a file from anywhere on disk, together with the helper modules beside it.

Each folder becomes a private package, named by a hash of its path. `import helper` in a file of
that folder means the folder's own `helper.py`, under a name that no other folder's helper has: so
two plugins may both bring a `utils.py`, and `sys.path` stays as it is.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from moe_router_bench import PACKAGES


def package_of(folder: Path) -> str:
    """The name of the private package that a folder's modules are imported under."""
    return f"plugins_{_digest(folder)}"


def module_name(path: Path) -> str:
    """The name that a file is imported under: of its own, and the same in every process."""
    return f"{package_of(path.parent)}.{path.stem if path.stem.isidentifier() else _digest(path)}"


def import_file(path: Path) -> ModuleType:
    """The module of a Python file, imported once under a name of its own.

    Args:
        path: absolute path of the file.

    Raises:
        whatever the file raises; it then leaves no module behind.
    """
    name = module_name(path)
    if name in sys.modules:
        return sys.modules[name]
    _make_package(path.parent)
    loader = _Loader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # a loader was given
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def beside(folder: Path, importer: Path, name: str) -> Path | None:
    """The file of `folder` that an absolute `import name` in its file `importer` means, or None.

    Standard modules and this harness's packages are never shadowed, and a file never finds itself:
    a plugin `entmax.py` may import the library `entmax`.
    """
    if name in sys.stdlib_module_names or name in PACKAGES:
        return None
    package, file = folder / name / "__init__.py", folder / f"{name}.py"
    if package.exists():
        return package
    return file if file.exists() and file != importer else None


def _digest(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()[:12]


def _make_package(folder: Path) -> None:
    name = package_of(folder)
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Loader(SourceFileLoader):
    """Runs a file with an `import` that looks beside it first, and never from a stale cache."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
        super().exec_module(module)


class _Finder:
    """Finds the modules of private packages, so that they are run by `_Loader`."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("plugins_") or path is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


def _import(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """What `import` statements call within a private package; see `builtins.__import__`."""
    importer, top = globals or {}, name.partition(".")[0]
    package = str(importer.get("__name__")).partition(".")[0]
    if level == 0 and package in sys.modules and "__file__" in importer:
        folder = Path(sys.modules[package].__path__[0])
        if beside(folder, Path(importer["__file__"]), top) is not None:
            if fromlist:
                return builtins.__import__(f"{package}.{name}", globals, locals, fromlist, 0)
            importlib.import_module(f"{package}.{name}")
            return sys.modules[f"{package}.{top}"]
    return builtins.__import__(name, globals, locals, fromlist or (), level)
