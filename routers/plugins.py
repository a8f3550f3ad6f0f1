"""Components from outside this repository: a user's file, or an installed package's entry point.

A plugin registers all or nothing: one that fails half-way leaves no component and no module
behind, so it disturbs no other and may be loaded again once it is mended.
"""

from __future__ import annotations

import linecache
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from routers.beside import import_file, module_name, package_of
from routers.errors import BenchError, RequestError, nearest
from routers.registry import Registry

GROUP = "moe_router_bench.routers"
ELSEWHERE: list[Callable[[], Iterable[str]]] = []
"""Each names the modules that have registered something in a registry of another library."""


@dataclass(frozen=True)
class PluginFailure:
    """An entry point that could not be loaded, and why, with its own line."""

    name: str
    message: str


def load_plugin(path: str | Path) -> ModuleType:
    """Import a user's file from anywhere on disk; what it registers is then known by name.

    Modules beside the file can be imported by their plain names, and are its own: another plugin's
    module of the same name is another module. Loading a file again returns the same module; a
    file that has changed since needs a new process.

    Raises:
        RequestError: there is no such file, it cannot be imported (the message has its own line),
            or it registers nothing.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise RequestError(_no_file(path, file))
    what = f"plugin {path}"
    return _load(what, module_name(file), package_of(file.parent), lambda: import_file(file))


def load_entry_points() -> list[PluginFailure]:
    """Import every installed package that offers components in `moe_router_bench.routers`.

    Returns: those that failed; the others work all the same.
    """
    failures = []
    for point in entry_points(group=GROUP):
        what = f"entry point {point.name} = {point.value}"
        try:
            _load(what, point.module, point.module.partition(".")[0], point.load)
        except RequestError as error:
            failures.append(PluginFailure(point.name, str(error)))
    return failures


def _load(what: str, module: str, package: str, load: Callable[[], Any]) -> ModuleType:
    """Run `load`, which imports `module` of `package`, and undo what it did if it fails."""
    modules, entries = set(sys.modules), _entries()
    try:
        load()
    except (Exception, SystemExit) as error:
        _undo(package, modules, entries)
        raise RequestError(f"{what} cannot be imported: {_own_line(error, package)}") from error
    new = {name for name in set(sys.modules) - modules if name.partition(".")[0] == package}
    registered = _entries() != entries or any(not new.isdisjoint(names()) for names in ELSEWHERE)
    if module not in modules and not registered:
        _undo(package, modules, entries)
        raise RequestError(
            f'{what} registers nothing; decorate a class with @register_router("name", family="…")'
        )
    return sys.modules[module]


def _entries() -> set[tuple[Registry, str]]:
    return {(registry, name) for registry in Registry.instances for name in registry.names()}


def _undo(package: str, modules: set[str], entries: set[tuple[Registry, str]]) -> None:
    """Forget the package's new modules, and what the plugin registered since.

    What a module outside the package registered while the plugin imported it for the first time
    stays: that module stays imported, and would not register again.
    """
    new = set(sys.modules) - modules
    own = {name for name in new if name.partition(".")[0] == package}
    for name in own:
        del sys.modules[name]
    for registry, name in _entries() - entries:
        if registry.get(name).target.__module__ not in new - own:
            registry.discard(name)


def _own_line(error: BaseException, package: str) -> str:
    """Where the plugin's own code failed, and how: `file:line: source — error`."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        where = f"{error.filename}:{error.lineno}: {(error.text or '').strip()} — "
        return f"{where}{type(error).__name__}: {error.msg}"
    own = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package
    ]
    where = ""
    if own:
        file, line = own[-1]
        linecache.checkcache(file)
        where = f"{file}:{line}: {linecache.getline(file, line).strip()} — "
    kind = "" if isinstance(error, BenchError) else f"{type(error).__name__}: "
    return f"{where}{kind}{error}"


def _no_file(path: str | Path, file: Path) -> str:
    if file.is_dir():
        return f"plugin {path} is a folder; name the Python file{nearest('', _files(file))}"
    folder = file.parent
    if not folder.is_dir():
        return f"plugin {path} does not exist: there is no folder {folder}"
    return f"plugin {path} does not exist{nearest(file.name, _files(folder))}"


def _files(folder: Path) -> list[str]:
    return [file.name for file in folder.glob("*.py")]
