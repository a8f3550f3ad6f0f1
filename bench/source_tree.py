"""Which source a component depends on, and a hash of each module of it.

A module's hash is of its syntax tree without comments and docstrings. Its dependencies are the
modules that it imports from this repository, or from beside a plugin, transitively. A name
imported from a package is followed through the package's `__init__` to the module that defines
it: a router depends on `routers/router.py`, not on the other routers that `routers` imports.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from routers.beside import package_of

HOME = Path(__file__).resolve().parent.parent
PACKAGES = ("bench", "routers", "suites", "results")
INSTALLED = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib")]


@dataclass(frozen=True)
class Import:
    """`from module import name`, or `import module` where the name is None; absolute."""

    module: str
    name: str | None


@dataclass(frozen=True)
class Source:
    """One parsed file.

    Attributes:
        digest: SHA-256 of the code without comments and docstrings.
        imports: all that it imports, also inside functions.
        exports: local name -> the import that binds it, at the top level.
    """

    digest: str
    imports: tuple[Import, ...]
    exports: dict[str, Import]


@dataclass(frozen=True)
class Root:
    """A folder that modules are looked for in; `only` names the top-level modules that count."""

    folder: Path
    only: tuple[str, ...] | None = None

    def module_of(self, file: Path) -> str:
        """The dotted name of a file under this folder."""
        parts = file.relative_to(self.folder).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def find(self, module: str) -> Path | None:
        """The file of a module, if it lies here."""
        top = module.partition(".")[0]
        if not top or (self.only is not None and top not in self.only):
            return None
        path = self.folder.joinpath(*module.split("."))
        files = (path / "__init__.py", path.with_name(f"{path.name}.py"))
        return next((file for file in files if file.is_file()), None)


REPOSITORY = Root(HOME, PACKAGES)


def source_hashes(files: Iterable[Path], *, own: bool = False) -> dict[str, str]:
    """The hash of each of these files and of each module that they depend on, by module name.

    Args:
        own: leave out what they depend on in this repository.
    """
    found: dict[Path, tuple[str, str]] = {}
    waiting = [(file.resolve(), _root_of(file.resolve())) for file in files]
    while waiting:
        file, root = waiting.pop()
        if file in found:
            continue
        module = root.module_of(file)
        source = _parse(file, module)
        found[file] = (module, source.digest)
        for wanted in source.imports:
            waiting += [
                (target, home)
                for home in ((root,) if own else dict.fromkeys((root, REPOSITORY)))
                for target in _resolve(wanted, home)
            ]
    return dict(sorted(found.values()))


def combined(hashes: dict[str, str]) -> str:
    """One SHA-256 (hex) for all of these."""
    text = "\n".join(f"{name} {digest}" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _root_of(file: Path) -> Root:
    """Where the imports of this file are looked for beside the repository."""
    if REPOSITORY.folder in file.parents:
        top = file.relative_to(REPOSITORY.folder).parts[0]
        if top in PACKAGES:
            return REPOSITORY
    folder = file.parent
    # A user's file finds what lies beside it, even where that folder is a package too.
    while (folder / "__init__.py").is_file() and package_of(folder) not in sys.modules:
        folder = folder.parent
    # Beside an installed plugin lie all other installed packages; only its own counts.
    installed = any(folder == place for place in INSTALLED)
    top = file.relative_to(folder).parts[0].removesuffix(".py")
    return Root(folder, (top,) if installed else None)


def _resolve(wanted: Import, root: Root, seen: frozenset[Import] = frozenset()) -> list[Path]:
    """The files that an import reads what it needs from; none where it is not ours."""
    file = root.find(wanted.module)
    if file is None or wanted in seen:
        return []
    if wanted.name is None or file.name != "__init__.py":
        return [file]
    exports = _parse(file, wanted.module).exports
    if wanted.name in exports:
        through = exports[wanted.name]
        if through != wanted and (found := _resolve(through, root, seen | {wanted})):
            return found
    submodule = root.find(f"{wanted.module}.{wanted.name}")
    return [submodule or file]


def _parse(file: Path, module: str) -> Source:
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    return _analyse(file.read_text(encoding="utf-8"), package)


@cache
def _analyse(text: str, package: str) -> Source:
    tree = ast.parse(text)
    exports = {
        alias.asname or alias.name: Import(_absolute(node, package), alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    imports = tuple(dict.fromkeys(_imports(tree, package)))
    code = ast.unparse(_Undocumented().visit(tree))
    return Source(hashlib.sha256(code.encode()).hexdigest(), imports, exports)


def _imports(tree: ast.AST, package: str) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, package)
            for alias in node.names:
                yield Import(module, None if alias.name == "*" else alias.name)
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield from _imports(node, package)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """The module of `from … import`, where the file's package is `package`."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    above = parts[: len(parts) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


class _Undocumented(ast.NodeTransformer):
    """Removes docstrings, and every other string that stands alone as a statement."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if getattr(node, "body", None) == []:
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node
