"""Code in a normal form, in which only what has an effect differs.

Left out are comments, docstrings, annotations that nothing reads, the texts of errors and warnings,
and arguments that are only shown. A name stands as a reference to what it means, which a local
import or another spelling of an import does not change.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from bench.plan.file_names import Module, Scope, stored

SILENT = ("print", "emit", "logging", "warnings")
"""Functions, and modules of functions, that only say something."""
SHOWN: Mapping[str, tuple[int | None, tuple[str, ...]]] = {
    "Field": (None, ("description",)),
    "MetricDef": (3, ("meaning",)),
    "hyper": (1, ("meaning", "tune")),
}
"""By the name of what is called: arguments that change no number that a given value leads to, by
place and by name."""


@dataclass(frozen=True)
class Reference:
    """A path that code names: a module and names in it, such as `routers:Router.forward`."""

    path: str


@dataclass(frozen=True)
class Written:
    """The code of a definition.

    Attributes:
        parts: its text, and what it names.
        annotated: paths of its annotations: of these classes are the objects that it works on.
    """

    parts: tuple[str | Reference, ...]
    annotated: frozenset[str]


@cache
def normal_form(module: Module, name: str) -> Written:
    """Return the code of a definition of a module, or of its effects where the name is empty."""
    writer = _Writer(module)
    for statement in module.bound[name] if name else module.effects:
        writer.write(statement, Scope())
    return Written(tuple(writer.parts), frozenset(writer.annotated))


def references(module: Module) -> frozenset[str]:
    """Return all paths that a file names."""
    each = [normal_form(module, name) for name in ["", *module.bound]]
    named = {part.path for code in each for part in code.parts if isinstance(part, Reference)}
    return frozenset(named).union(module.stars, *(code.annotated for code in each))


class _Writer:
    """A writer of a definition's code in a form in which only differences of effect remain."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self.parts: list[str | Reference] = []
        self.annotated: set[str] = set()

    def write(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, (ast.Name, ast.Attribute)):
            path = self._module.meaning(node, scope)
            stores = isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
            if path is not None and not stores:
                self.parts.append(Reference(path))
                return
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            self._write_function(node, scope)
        elif isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            hidden = scope.hidden.union(*(stored([each.target]) for each in node.generators))
            self._write_fields(node, Scope(scope.imports, hidden))
        elif isinstance(node, ast.ClassDef):
            self._write_fields(node, Scope(scope.imports, scope.hidden, fields=True))
        elif isinstance(node, ast.AnnAssign) and node.value and not scope.fields:
            self._read_annotation(node.annotation, scope)
            self._write_fields(ast.Assign([node.target], node.value), scope)
        elif isinstance(node, ast.Raise):
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            self._write_fields(ast.Raise(raised), scope)  # without its message
        elif isinstance(node, ast.Assert):
            self._write_fields(ast.Assert(node.test), scope)
        elif isinstance(node, ast.Call):
            self._write_call(node, scope)
        else:
            self._write_fields(node, scope)

    def _write_fields(self, node: ast.AST, scope: Scope) -> None:
        self.parts.append(f"({type(node).__name__}")
        for key, value in ast.iter_fields(node):
            value = self._effective(value, scope)
            # What is empty is left out, as other versions of Python may not know it.
            if key not in ("ctx", "kind", "type_comment") and value not in (None, []):
                self.parts.append(f" {key}=")
                self._write_value(value, scope)
        self.parts.append(")")

    def _effective(self, value: object, scope: Scope) -> object:
        """Return a field of a node, statements of no effect left out of a list of them."""
        if not isinstance(value, list):
            return value
        return [each for each in value if not self._is_silent(each, scope)]

    def _write_value(self, value: object, scope: Scope) -> None:
        if isinstance(value, ast.AST):
            self.write(value, scope)
        elif isinstance(value, list):
            self.parts.append("[")
            for each in value:
                self._write_value(each, scope)
                self.parts.append(",")
            self.parts.append("]")
        else:
            self.parts.append(repr(value))

    def _write_function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, scope: Scope
    ) -> None:
        body = node.body if isinstance(node.body, list) else [node.body]
        args = node.args
        arguments = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
        own = {argument.arg for argument in arguments if argument} | stored(body)
        for each in (getattr(node, "returns", None), *(one.annotation for one in arguments if one)):
            self._read_annotation(each, scope)
        decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
        self.parts.append(f"({type(node).__name__} {getattr(node, 'name', '')}")
        self._write_value(decorators, scope)
        for argument in arguments:
            self.parts.append(f" {argument.arg if argument else None}")
        self._write_value([*args.defaults, *args.kw_defaults], scope)
        # The options of a component that is a function are validated by their annotations.
        options = [each.annotation for each in args.kwonlyargs if decorators and each.annotation]
        self._write_value(options, scope)
        imports = {**scope.imports, **self._module.imports_of(node)}
        hidden = scope.hidden | own
        inside = Scope(imports, frozenset(hidden))
        self._write_value(self._effective(body, inside), inside)
        self.parts.append(")")

    def _read_annotation(self, annotation: ast.expr | None, scope: Scope) -> None:
        for node in ast.walk(annotation) if annotation else ():
            path = self._module.meaning(node, scope)
            self.annotated |= {path} if path else set()

    def _write_call(self, node: ast.Call, scope: Scope) -> None:
        name = _name_of(node.func)
        if name.endswith(("Error", "Warning", "Exception")):
            self.write(node.func, scope)  # its arguments are its message
            return
        place, names = SHOWN.get(name, (None, ()))
        positional = [each for number, each in enumerate(node.args) if number != place]
        keywords = [each for each in node.keywords if each.arg not in names]
        self._write_fields(ast.Call(node.func, positional, keywords), scope)

    def _is_silent(self, node: object, scope: Scope) -> bool:
        """Tell whether a node is of no effect: an import, a docstring, a message."""
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Pass)):
            return True
        if isinstance(node, ast.AnnAssign):
            return node.value is None and not scope.fields
        if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
            return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        path = self._module.meaning(node.value.func, scope)
        module, _, name = (path or f":{_name_of(node.value.func)}").partition(":")
        return name in SILENT or module in SILENT


def _name_of(function: ast.expr) -> str:
    """Return the last name of what is called."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
