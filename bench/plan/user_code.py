"""Which of a user's files a component depends on, and a digest of each.

They are the files that it imports, transitively: from beside a plugin, and from wherever else
Python finds them, but for the standard library, installed distributions and this repository. Of a
package each `__init__` on the way counts too, since it runs. A digest is of the syntax tree without
comments and docstrings, and knows neither the file's name nor its place.
"""

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
from bench.plan.normal_form import Module, Reference, imported_module, normal_form, parsed
from moe_router_bench import PACKAGES

SUFFIXES = (".py", *EXTENSION_SUFFIXES)


@dataclass(frozen=True)
class Import:
    """`from module import name`, or `import module` where the name is None.

    Attributes:
        module: absolute name of the module.
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
        exports: local name and the import that binds it, at the top level.
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

    def find(self, module: str) -> Path | None:
        """Return the file of a module, if it lies here."""
        top = module.partition(".")[0]
        if not top or (self.only is not None and top not in self.only):
            return None
        path = self.folder.joinpath(*module.split("."))
        files = [path / "__init__.py", *(path.with_name(path.name + end) for end in SUFFIXES)]
        return next((file for file in files if file.is_file()), None)


def user_sources(files: Iterable[Path]) -> dict[Path, Source]:
    """Collect files and those that they depend on, without files of this repository."""
    sources: dict[Path, Source] = {}
    waiting = [(file.resolve(), _root_of(file.resolve())) for file in files]
    while waiting:
        file, root = waiting.pop()
        if file not in sources and not is_own(file):
            parts = file.relative_to(root.folder).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            sources[file] = source = _parse(file, module)
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
    # Next to an installed plugin lie all other installed packages; only its own counts.
    top = file.relative_to(folder).parts[0].removesuffix(".py")
    return Root(folder, (top,) if is_installed(file) else None)


def _resolve(
    wanted: Import, root: Root, seen: frozenset[Import] = frozenset()
) -> list[tuple[Path, Root]]:
    """Return the files that an import reads what it needs from; none where they are installed."""
    top = wanted.module.partition(".")[0]
    roots = [root]
    if not wanted.relative:
        foreign = top in PACKAGES or top in sys.stdlib_module_names
        roots = [] if foreign else [*(Root(each, (top,)) for each in search_folders(top)), root]
    home = next((each for each in roots if each.find(wanted.module)), None)
    file = home.find(wanted.module) if home and wanted not in seen else None
    if home is None or file is None:
        return []
    # The `__init__` files that run before, with its own.
    parts = wanted.module.split(".")
    folders = [home.folder.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    files = [init for folder in folders if (init := folder / "__init__.py").is_file()]
    before = [(each, home) for each in files]
    if wanted.name is None or file.name != "__init__.py":
        return [*before, (file, home)]
    through = dict(_parse(file, wanted.module).exports).get(wanted.name, wanted)
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
        named = _references(parsed(text, module, stem))
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
    _remove_texts(tree)
    return Source(module, _sha256(ast.unparse(tree)), imports, exports, named)


def _references(module: Module) -> frozenset[str]:
    """Return all paths that a file names."""
    each = [normal_form(module, name) for name in ["", *module.bound]]
    named = {part.path for code in each for part in code.parts if isinstance(part, Reference)}
    return frozenset(named).union(module.stars, *(code.annotated for code in each))


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
