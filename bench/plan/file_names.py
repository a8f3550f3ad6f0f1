"""What the names of a file mean: where an import or a definition binds them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

Names = dict[str, str]
"""Names and their meanings, a path of a module and a name in it: "F" -> "torch.nn:functional"."""


@dataclass(frozen=True)
class Scope:
    """The meanings of names inside a definition.

    Attributes:
        imports: those that functions around import.
        hidden: variables of functions around, whatever a module's names of that spelling mean.
        fields: whether annotations count: those in a class body can be its fields.
    """

    imports: Mapping[str, str] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    fields: bool = False


class Module:
    """A parsed file.

    Args:
        tree: its syntax tree.
        name: its dotted name.
        package: of which it is, to which relative imports belong.

    Attributes:
        imports: what each name means that an import at the top level binds.
        bound: by name, the statements that define it.
        effects: statements that do more than define. A registration is none: what a registry holds
            is followed from the description that names it.
        stars: modules of which everything is imported.
    """

    def __init__(self, tree: ast.Module, name: str, package: str) -> None:
        self.name, self._package = name, package
        self.imports: Names = {}
        self.bound: dict[str, list[ast.stmt]] = {}
        self.effects: list[ast.stmt] = []
        self.stars: list[str] = []
        for statement in tree.body:
            self._read(statement)

    def _read(self, statement: ast.stmt) -> None:
        self.imports |= imports_in(statement, self._package, inside=False)
        if isinstance(statement, ast.If) and _is_for_others(statement.test):
            return
        self.stars += stars_in(statement, self._package)
        names, imports = stored([statement]), imports_in(statement, self._package, inside=False)
        for name in names:
            self.bound.setdefault(name, []).append(statement)
        compound = isinstance(statement, (ast.For, ast.While, ast.With, ast.If, ast.Try))
        if (compound or not names) and not imports and not _is_registration(statement):
            self.effects.append(statement)

    def meaning(self, node: ast.AST, scope: Scope) -> str | None:
        """Return the path that `a.b.c` stands for; None where `a` is no name of the module's."""
        attributes: list[str] = []
        while isinstance(node, ast.Attribute):
            attributes.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        if node.id in scope.imports:
            start = scope.imports[node.id]
        elif node.id in scope.hidden:
            return None
        elif node.id in self.imports:
            start = self.imports[node.id]
        elif node.id in self.bound:
            start = f"{self.name}:{node.id}"
        else:
            return None
        glue = "" if start.endswith(":") or not attributes else "."
        return start + glue + ".".join(reversed(attributes))

    def imports_of(self, function: ast.AST) -> Names:
        """Map each name that a function imports to the path that it means."""
        return imports_in(function, self._package, inside=True)


@cache
def parsed(text: str, name: str, stem: str) -> Module:
    """Return a file's module.

    Args:
        text: of the file.
        name: the module's dotted name.
        stem: the file's; "__init__" is a package.

    Raises:
        SyntaxError: it is no Python.
    """
    package = name if stem == "__init__" else name.rpartition(".")[0]
    return Module(ast.parse(text), name, package)


def imports_in(tree: ast.AST, package: str, *, inside: bool) -> Names:
    """Map each imported name to the path that it means.

    Args:
        inside: also in functions and classes.
    """
    names: Names = {}
    for node in _walk(tree, inside):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                names[alias.asname or top] = f"{alias.name if alias.asname else top}:"
        elif isinstance(node, ast.ImportFrom):
            module = imported_module(node, package)
            names |= {each.asname or each.name: f"{module}:{each.name}" for each in node.names}
    return names


def stars_in(tree: ast.AST, package: str) -> list[str]:
    """List the modules of which everything is imported."""
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return [f"{imported_module(node, package)}:" for node in froms if node.names[0].name == "*"]


def imported_module(node: ast.ImportFrom, package: str) -> str:
    """Return the absolute name of the module that a file of a package imports from."""
    parts = package.split(".") if package and node.level else []
    above = parts[: len(parts) - node.level + 1] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def _walk(tree: ast.AST, inside: bool) -> Iterator[ast.AST]:
    """Return a node and those below it, without those of functions and classes unless `inside`."""
    yield tree
    defines = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    if inside or not isinstance(tree, defines):
        for node in ast.iter_child_nodes(tree):
            yield from _walk(node, inside)


def stored(statements: Iterable[ast.AST]) -> set[str]:
    """Return the names that statements bind where they stand, imports left out."""
    names: set[str] = set()
    waiting = list(statements)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            names.add(node.name)
        scopes = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.GeneratorExp)
        if not isinstance(node, (*scopes, ast.ListComp, ast.SetComp, ast.DictComp)):
            waiting += ast.iter_child_nodes(node)
    return names


def _is_for_others(test: ast.expr) -> bool:
    """Tell whether a branch is the type checker's, or a script's."""
    text = ast.unparse(test)
    return "TYPE_CHECKING" in text or "__name__" in text


def _is_registration(statement: ast.stmt) -> bool:
    """Tell whether a statement of a module is a call of `register…`, or a text."""
    if not isinstance(statement, ast.Expr):
        return False
    value = statement.value
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rpartition(".")[2].startswith("register")
    return isinstance(value, ast.Constant)
