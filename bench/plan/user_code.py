"""Which of a user's files a component depends on, and a digest of each.

They are the files that it imports, transitively: from beside a plugin, and from wherever else
Python finds them, but for the standard library, installed distributions and this repository. Of a
package each `__init__` on the way counts too, since it runs. A digest is of the syntax tree without
comments and docstrings, and knows neither the file's name nor its place.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from bench.model import is_installed, search_folders
from bench.plan.definitions import HOME
from bench.plan.file_names import imported_module, parsed
from bench.plan.normal_form import references
from moe_router_bench import PACKAGES

SUFFIXES = (".py", *EXTENSION_SUFFIXES)


@dataclass(frozen=True)
class Import:
    """`from module import name`, or `import module` where the name is None.

    Attributes:
        module: its absolute name.
        relative: whether the statement names it from its own package.
    """

    module: str
    name: str | None
    relative: bool = False


@dataclass(frozen=True)
class Source:
    """A file of the user's code.

    Attributes:
        module: the dotted name that it is imported by.
        digest: SHA-256 of the code without comments and docstrings; of the bytes of what is no
            Python source.
        imports: all that it imports, also inside functions.
        exports: local name -> the import that binds it, at the top level.
        references: what the code names, as `bench.plan.definitions` resolves it.
    """

    module: str
    digest: str
    imports: tuple[Import, ...] = ()
    exports: tuple[tuple[str, Import], ...] = ()
    references: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Root:
    """A folder that modules are looked for in; `only` names the top-level modules that count."""

    folder: Path
    only: tuple[str, ...] | None = None

    def module_of(self, file: Path) -> str:
        """Return the dotted name of a file under this folder."""
        parts = file.relative_to(self.folder).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def find(self, module: str) -> Path | None:
        """Return the file of a module, if it lies here."""
        top = module.partition(".")[0]
        if not top or (self.only is not None and top not in self.only):
            return None
        path = self.folder.joinpath(*module.split("."))
        files = [path / "__init__.py", *(path.with_name(path.name + end) for end in SUFFIXES)]
        return next((file for file in files if file.is_file()), None)

    def packages(self, module: str) -> list[Path]:
        """List the `__init__` files that run before a module is imported, with its own."""
        parts = module.split(".")
        folders = [self.folder.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
        return [file for folder in folders if (file := folder / "__init__.py").is_file()]


Found = list[tuple[Path, Root]]


def user_sources(files: Iterable[Path]) -> dict[Path, Source]:
    """Collect files and those that they depend on, without files of this repository."""
    sources: dict[Path, Source] = {}
    waiting = [(file.resolve(), _root_of(file.resolve())) for file in files]
    while waiting:
        file, root = waiting.pop()
        if file not in sources and not is_own(file):
            sources[file] = source = _parse(file, root.module_of(file))
            for wanted in source.imports:
                waiting += _resolve(wanted, root)
    return sources


def is_own(file: Path) -> bool:
    """Tell whether a file belongs to one of this repository's packages."""
    return any(file.is_relative_to(HOME / package) for package in PACKAGES)


def combined(lines: Iterable[str]) -> str:
    """Return one SHA-256 (hex) for all of these, whatever their order."""
    return _sha256("\n".join(sorted(lines)))


def _root_of(file: Path) -> Root:
    """Return the root in which a file's imports are found where Python finds them nowhere."""
    folder = file.parent
    # Where a file lies in a package, its imports name the package's folder too.
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    # Beside an installed plugin lie all other installed packages; only its own counts.
    top = file.relative_to(folder).parts[0].removesuffix(".py")
    return Root(folder, (top,) if is_installed(file) else None)


def _root_for(wanted: Import, root: Root) -> Root | None:
    """Return the root where an import in a file finds its module; None if it is no user's file."""
    top = wanted.module.partition(".")[0]
    if wanted.relative:
        places = [root]
    elif top in PACKAGES or top in sys.stdlib_module_names:
        places = []
    else:
        places = [*(Root(folder, (top,)) for folder in search_folders(top)), root]
    return next((place for place in places if place.find(wanted.module)), None)


def _resolve(wanted: Import, root: Root, seen: frozenset[Import] = frozenset()) -> Found:
    """Return the files that an import reads what it needs from; none where they are installed."""
    home = None if wanted in seen else _root_for(wanted, root)
    file = home.find(wanted.module) if home else None
    if home is None or file is None:
        return []
    before = [(each, home) for each in home.packages(wanted.module)]
    if wanted.name is None or file.name != "__init__.py":
        return [*before, (file, home)]
    exports = dict(_parse(file, wanted.module).exports)
    if wanted.name in exports:
        through = exports[wanted.name]
        if through != wanted and (resolved := _resolve(through, home, seen | {wanted})):
            return [*before, *resolved]
    submodule = home.find(f"{wanted.module}.{wanted.name}")
    return [*before, (submodule or file, home)]


def _parse(file: Path, module: str) -> Source:
    if file.suffix != ".py":
        return Source(module, hashlib.sha256(file.read_bytes()).hexdigest())
    with tokenize.open(file) as source:  # heeds a byte-order mark and a coding line
        return _analyse(source.read(), module, file.stem)


@cache
def _analyse(text: str, module: str, stem: str) -> Source:
    try:
        tree = ast.parse(text)
        named = references(parsed(text, module, stem))
    except (SyntaxError, ValueError):  # it may be imported by code that never runs here
        return Source(module, _sha256(text))
    package = module if stem == "__init__" else module.rpartition(".")[0]
    exports = tuple(
        (alias.asname or alias.name, _import_from(node, alias.name, package))
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    )
    imports = tuple(dict.fromkeys(_imports(tree, package)))
    code = ast.unparse(_Undocumented().visit(tree))
    return Source(module, _sha256(code), imports, exports, named)


def _imports(tree: ast.AST, package: str) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (_import_from(node, alias.name, package) for alias in node.names)
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield from _imports(node, package)


def _import_from(node: ast.ImportFrom, name: str, package: str) -> Import:
    """Resolve one name of `from … import`, where the file's package is `package`."""
    module = imported_module(node, package)
    if not module:  # `from . import name` in a file of no package
        return Import(name, None, relative=True)
    return Import(module, None if name == "*" else name, relative=node.level > 0)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class _Undocumented(ast.NodeTransformer):
    """A transformer that removes docstrings and other strings that are statements."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if getattr(node, "body", None) == []:
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node
