"""Components from outside this repository: a user's file, or an installed package's entry point.

A file is imported under a unique name. The modules next to it can be imported as in a script (its
folder comes last in `sys.path`, so that it shadows no library) or relatively, by `from . import`.
A plugin registers all or nothing: one that fails half-way leaves no component and no module
behind, so it disturbs no other and can be loaded again once it is fixed.
"""

from __future__ import annotations

import ast
import hashlib
import linecache
import sys
import tokenize
import traceback
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.metadata import entry_points
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from moe_router_bench import PACKAGES
from routers.errors import BenchError, RequestError, nearest
from routers.registry import Registry

GROUP = "moe_router_bench.routers"
ELSEWHERE: list[Callable[[], Iterable[str]]] = []
"""Functions that name the modules with something registered in another library's registry."""


class PluginFailure(NamedTuple):
    """An entry point that could not be loaded, and why, with the line in its own code."""

    name: str
    message: str


def load_plugin(path: str | Path) -> ModuleType:
    """Import a user's file from anywhere on disk; what it registers is then known by name.

    Loading a file again returns the same module; a file that has changed since needs a new process.

    Raises:
        RequestError: there is no such file, it cannot be imported (the message shows the line), it
            registers nothing, or the name of a module next to it already means another module.
    """
    file = Path(path).expanduser().resolve()
    _refuse_missing(path, file)
    if _file_of(file.stem) == file and file.stem in sys.modules:  # another plugin's helper
        sys.modules.setdefault(module_name(file), sys.modules[file.stem])
    return _load(f"plugin {path}", module_name(file), lambda: _import(file))


def _refuse_missing(path: str | Path, file: Path) -> None:
    """Refuse a plugin that is not a file, naming similar files of its folder."""
    if file.is_file():
        return
    folder = file if file.is_dir() else file.parent
    files = [each.name for each in folder.glob("*.py")]
    if file.is_dir():
        raise RequestError(f"plugin {path} is a folder; name the Python file{nearest('', files)}")
    missing = nearest(file.name, files) if folder.is_dir() else f": there is no folder {folder}"
    raise RequestError(f"plugin {path} does not exist{missing}")


def load_entry_points() -> list[PluginFailure]:
    """Import every package that offers `moe_router_bench.routers`, and return the failures."""
    failures = []
    for point in entry_points(group=GROUP):
        what = f"entry point {point.name} = {point.value}"
        try:
            _load(what, point.module, point.load)
        except RequestError as error:
            failures.append(PluginFailure(point.name, str(error)))
    return failures


def module_name(file: Path) -> str:
    """Return the name that a file is imported under, unique and the same in every process.

    Its package, which relative imports refer to, stands for its folder.
    """
    folder, own = (
        hashlib.sha256(str(path).encode()).hexdigest()[:12] for path in (file.parent, file)
    )
    return f"plugins_{folder}.{file.stem if file.stem.isidentifier() else own}"


def _import(file: Path) -> None:
    """Import a file, once."""
    name, folder = module_name(file), str(file.parent)
    if name in sys.modules:
        return
    top = name.partition(".")[0]
    sys.modules.setdefault(top, ModuleType(top)).__path__ = [folder]
    if folder not in sys.path:
        sys.path.append(folder)
    _refuse_other_helpers(file)
    spec = spec_from_file_location(name, file, loader=SourceFileLoader(name, str(file)))
    assert spec is not None  # a loader was given
    assert spec.loader is not None
    sys.modules[name] = module = module_from_spec(spec)
    if _file_of(file.stem) == file:  # it may be another plugin's helper
        sys.modules[file.stem] = module
    # If a file is edited within a second, its cached bytecode may be stale.
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes


def _file_of(name: str) -> Path | None:
    """Return the file that a top-level module name currently resolves to."""
    try:
        spec = find_spec(name) if name.isidentifier() else None
    except ValueError:  # a module without a specification, such as `__main__`
        return None
    return Path(spec.origin).resolve() if spec and spec.origin else None


def _refuse_other_helpers(plugin: Path) -> None:
    """Refuse a plugin whose `import helper` would not find the helper next to it."""
    for name, helper in _helpers(plugin):
        if (other := _file_of(name)) != helper:
            raise RequestError(
                f"its `import {name}` means {helper}, and would find {other}: rename one of the "
                f"two, or use relative imports, as in `from . import {name}`"
            )


def _helpers(plugin: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and file of each module next to a plugin that it or they import by plain name."""
    waiting, seen = [plugin], {plugin}
    while waiting:
        for name in _imported(waiting.pop()) - sys.stdlib_module_names - {*PACKAGES}:
            helper = plugin.parent / name / "__init__.py"
            if not helper.is_file():
                helper = plugin.parent / f"{name}.py"
            if helper.is_file() and helper not in seen:
                yield name, helper
                seen.add(helper)
                waiting += helper.parent.rglob("*.py") if helper.stem == "__init__" else [helper]


def _imported(file: Path) -> set[str]:
    """Return the top-level names that a file imports; none if it is not valid Python."""
    try:
        with tokenize.open(file) as source:  # heeds a byte-order mark and a coding line
            nodes = list(ast.walk(ast.parse(source.read())))
    except (SyntaxError, ValueError):
        return set()
    imports = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in [*imports, *(str(each.module) for each in froms)]}


def _load(what: str, module: str, load: Callable[[], Any]) -> ModuleType:
    """Run `load`, which imports `module`, and undo its effects if it fails."""
    modules, entries, path = set(sys.modules), _entries(), list(sys.path)
    failure: BaseException | None = None
    try:
        load()
    except (Exception, SystemExit) as error:
        failure = error
    code = _Code(module)
    came = {name: sys.modules[name] for name in set(sys.modules) - modules}
    new = {name for name, it in came.items() if code.holds(name, getattr(it, "__file__", None))}
    registered = _entries() != entries or any(not new.isdisjoint(names()) for names in ELSEWHERE)
    if failure is None and (module in modules or registered):
        return sys.modules[module]
    _undo(new, modules, entries)
    sys.path[:] = path
    if failure is not None:
        own_line = _own_line(failure, code)
        raise RequestError(f"{what} cannot be imported: {own_line}") from failure
    raise RequestError(
        f'{what} registers nothing; decorate a class with @register_router("name", family="…")'
    )


class _Code:
    """The code of a plugin: its top-level package, and the modules next to a user's file."""

    def __init__(self, module: str) -> None:
        self._package = module.partition(".")[0]
        path = getattr(sys.modules.get(self._package), "__path__", ())
        self._folders = [Path(folder) for folder in path]

    def holds(self, name: str, file: object) -> bool:
        """Tell whether the module of that name and file belongs to the plugin."""
        top = name.partition(".")[0]
        return top == self._package or any(
            Path(file).relative_to(folder).parts[0].removesuffix(".py") == top
            for folder in self._folders
            if isinstance(file, str) and Path(file).is_relative_to(folder)
        )


def _entries() -> set[tuple[Registry, str]]:
    return {(registry, name) for registry in Registry.instances for name in registry.names()}


def _undo(own: set[str], modules: set[str], entries: set[tuple[Registry, str]]) -> None:
    """Forget the plugin's new modules, and what the plugin has registered."""
    # What a module outside the plugin has registered stays: it will not be imported again.
    others = set(sys.modules) - modules - own
    for registry, name in _entries() - entries:
        if registry.get(name).target.__module__ not in others:
            registry.discard(name)
    for name in own:
        del sys.modules[name]


def _own_line(error: BaseException, code: _Code) -> str:
    """Return where and how the plugin's own code failed: `file:line: source — error`."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        where = f"{error.filename}:{error.lineno}: {(error.text or '').strip()} — "
        return f"{where}{type(error).__name__}: {error.msg}"
    own = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if code.holds(str(frame.f_globals.get("__name__")), frame.f_globals.get("__file__"))
    ]
    where = ""
    if own:
        file, line = own[-1]
        linecache.checkcache(file)
        where = f"{file}:{line}: {linecache.getline(file, line).strip()} — "
    kind = "" if isinstance(error, BenchError) else f"{type(error).__name__}: "
    return f"{where}{kind}{error}"
