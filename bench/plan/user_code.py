"""Which of a user's files a component depends on, and a digest of each.

These are the files that it imports, transitively: from next to a plugin and from anywhere else that
Python finds them, except for the standard library, installed distributions and this repository.
Each package `__init__` on the way counts too, since it runs. A digest covers the syntax tree
without comments and docstrings, and does not depend on the file's name or location.
"""

import ast
import hashlib
import sys
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from bench.model import is_installed, search_folders
from bench.plan.definitions import HOME
from bench.plan.normal_form import Module, Reference, imported_module, normal_form, parsed
from moe_router_bench import PACKAGES

SUFFIXES = (".py", *EXTENSION_SUFFIXES)


@dataclass(frozen=True)
class Source:
    """A file of the user's code.

    Attributes:
        module: the dotted name under which it is imported.
        digest: SHA-256 of the code without comments and docstrings, or of the bytes if the file is
            not Python source.
        imports: the modules that it may import, also inside functions, and whether the import is
            relative.
        references: the paths that the code refers to, which `bench.plan.definitions` resolves.
    """

    module: str
    digest: str
    imports: tuple[tuple[str, bool], ...] = ()
    references: frozenset[str] = frozenset()


def user_sources(files: Iterable[Path]) -> dict[Path, Source]:
    """Return files and those that they depend on, except files of this repository."""
    sources: dict[Path, Source] = {}
    waiting = [(file.resolve(), _home_of(file.resolve())) for file in files]
    while waiting:
        file, home = waiting.pop()
        if file not in sources and not is_own(file):
            parts = file.relative_to(home).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            sources[file] = source = _parse(file, module)
            for name, relative in source.imports:
                waiting += _files_of(name, relative, home, parts[0])
    return sources


def is_own(file: Path) -> bool:
    """Tell whether a file belongs to one of this repository's packages."""
    return any(file.is_relative_to(HOME / package) for package in PACKAGES)


def combined(lines: Iterable[str]) -> str:
    """Return one SHA-256 (hex) for all these lines, whatever their order."""
    return _sha256("\n".join(sorted(lines)))


def _home_of(file: Path) -> Path:
    """Return the folder in which to look for a file's imports that Python does not find."""
    folder = file.parent
    # If a file lies in a package, its imports name the package's folder too.
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _files_of(name: str, relative: bool, home: Path, own: str) -> Iterator[tuple[Path, Path]]:
    """Yield a module's file and each `__init__` that runs before it, with the folder of both.

    Args:
        home: the folder that contains the importer's package or module.
        own: the package or module that the importer belongs to. All other installed packages lie
            next to an installed plugin; only its own counts.
    """
    parts = name.split(".")
    homes = [home]
    if not relative:
        foreign = parts[0] in PACKAGES or parts[0] in sys.stdlib_module_names
        homes = [] if foreign else [*search_folders(parts[0]), home]
    folder = next((each for each in homes if _find(each, parts)), None)
    if folder is None:
        return
    for depth in range(1, len(parts) + 1):
        file = _find(folder, parts[:depth])
        if file and (parts[0] == own or not is_installed(file)):
            yield file, folder


def _find(folder: Path, parts: Sequence[str]) -> Path | None:
    """Return the file of a module in a folder, or None if it is not there."""
    path = folder.joinpath(*parts)
    files = [path / "__init__.py", *(path.with_name(path.name + end) for end in SUFFIXES)]
    return next((file for file in files if file.is_file()), None)


def _parse(file: Path, module: str) -> Source:
    if file.suffix != ".py":
        return Source(module, hashlib.sha256(file.read_bytes()).hexdigest())
    with tokenize.open(file) as source:  # respects a byte-order mark and a coding line
        return _analyse(source.read(), module, file.stem)


@cache
def _analyse(text: str, module: str, stem: str) -> Source:
    try:
        tree = ast.parse(text)
        named = _references(parsed(text, module, stem))
    except (SyntaxError, ValueError):  # it may be imported by code that never runs here
        return Source(module, _sha256(text))
    package = module if stem == "__init__" else module.rpartition(".")[0]
    imports = tuple(dict.fromkeys(_imports(tree, package)))
    _remove_texts(tree)
    return Source(module, _sha256(ast.unparse(tree)), imports, named)


def _references(module: Module) -> frozenset[str]:
    """Return all paths that a file refers to."""
    each = [normal_form(module, name) for name in ["", *module.bound]]
    named = {part.path for code in each for part in code.parts if isinstance(part, Reference)}
    return frozenset(named).union(module.stars, *(code.annotated for code in each))


def _imports(tree: ast.AST, package: str) -> Iterator[tuple[str, bool]]:
    """Yield what may be a module: for `from module import name` also `module.name`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = imported_module(node, package)
            inner = (f"{module}.{alias.name}".lstrip(".") for alias in node.names)
            yield from ((each, node.level > 0) for each in (module, *inner) if each)
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield from _imports(node, package)


def _remove_texts(tree: ast.AST) -> None:
    """Remove docstrings and other strings that are statements."""
    for node in ast.walk(tree):
        for key, value in ast.iter_fields(node):
            if isinstance(value, list):
                kept = [each for each in value if not _is_text(each)]
                setattr(node, key, [ast.Pass()] if key == "body" and not kept else kept)


def _is_text(node: object) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
