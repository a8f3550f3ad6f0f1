"""A normal form of code, in which only differences in effect remain.

It leaves out comments, docstrings, annotations that nothing reads, the texts of errors and
warnings, and arguments that are only displayed. A name becomes a reference to what it means, so a
local import or another spelling of an import makes no difference.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

SILENT = ("print", "emit", "logging", "warnings")
"""Functions, and modules of functions, that only report something."""
SHOWN: Mapping[str, tuple[int | None, tuple[str, ...]]] = {
    "Field": (None, ("description",)),
    "MetricDef": (3, ("meaning",)),
    "hyper": (1, ("meaning", "tune")),
    "register_router": (None, ("display",)),
}
"""Arguments that do not affect results, for each name that is called: position and keywords."""
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class Scope:
    """The meanings of names inside a definition.

    Attributes:
        imports: the meaning of each name that an enclosing function imports.
        hidden: variables of enclosing functions, which hide the module's names.
        fields: whether annotations count, since those in a class body can be its fields.
    """

    imports: Mapping[str, str] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    fields: bool = False


class Module:
    """A parsed file.

    The meaning of a name is a path: a module and a name in it, as "F" -> "torch.nn:functional".

    Attributes:
        package: the package that relative imports start from.
        imports: the meaning of each name that a top-level import binds.
        bound: the statements that define each name.
        effects: statements that do more than define names. A registration is not one: what a
            registry holds is followed from the description that names it.
        stars: modules that are imported with `*`.
    """

    def __init__(self, tree: ast.Module, name: str, package: str) -> None:
        self.name, self.package = name, package
        self.imports: dict[str, str] = {}
        self.bound: dict[str, list[ast.stmt]] = {}
        self.effects: list[ast.stmt] = []
        self.stars: list[str] = []
        for statement in tree.body:
            imports = imports_in(statement, package, inside=False)
            self.imports |= imports
            test = ast.unparse(statement.test) if isinstance(statement, ast.If) else ""
            if "TYPE_CHECKING" in test or "__name__" in test:
                continue  # only for a type checker or a script
            for node in ast.walk(statement):
                if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
                    self.stars.append(f"{imported_module(node, package)}:")
            names = stored([statement])
            for bound in names:
                self.bound.setdefault(bound, []).append(statement)
            compound = isinstance(statement, (ast.For, ast.While, ast.With, ast.If, ast.Try))
            if (compound or not names) and not imports and not _is_registration(statement):
                self.effects.append(statement)

    def meaning(self, node: ast.AST, scope: Scope) -> str | None:
        """Return the path that `a.b.c` stands for, or None if the module has no name `a`."""
        attributes: list[str] = []
        while isinstance(node, ast.Attribute):
            attributes.insert(0, node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        start = scope.imports.get(node.id)
        if start is None and node.id not in scope.hidden:
            bound = f"{self.name}:{node.id}" if node.id in self.bound else None
            start = self.imports.get(node.id, bound)
        if start is None:
            return None
        glue = "" if start.endswith(":") or not attributes else "."
        return start + glue + ".".join(attributes)


@cache
def parsed(text: str, name: str, stem: str) -> Module:
    """Return the module that a file's text defines; the stem "__init__" makes it a package.

    Raises:
        SyntaxError: the text is not Python.
    """
    package = name if stem == "__init__" else name.rpartition(".")[0]
    return Module(ast.parse(text), name, package)


def imports_in(tree: ast.AST, package: str, *, inside: bool) -> dict[str, str]:
    """Map each imported name to the path it means; with `inside`, in functions and classes too."""
    names: dict[str, str] = {}
    for node in _walk(tree, inside):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                names[alias.asname or top] = f"{alias.name if alias.asname else top}:"
        elif isinstance(node, ast.ImportFrom):
            module = imported_module(node, package)
            names |= {each.asname or each.name: f"{module}:{each.name}" for each in node.names}
    return names


def imported_module(node: ast.ImportFrom, package: str) -> str:
    """Return the absolute name of the module that an import in a package refers to."""
    parts = package.split(".") if package and node.level else []
    above = parts[: len(parts) - node.level + 1] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def _walk(tree: ast.AST, inside: bool) -> Iterator[ast.AST]:
    """Yield a node and those below it; those in functions and classes only if `inside`."""
    yield tree
    if inside or not isinstance(tree, (*FUNCTIONS, ast.ClassDef)):
        for node in ast.iter_child_nodes(tree):
            yield from _walk(node, inside)


def stored(statements: Iterable[ast.AST]) -> set[str]:
    """Return the names that statements bind in their own scope, without imports."""
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
        if not isinstance(node, (*FUNCTIONS, *COMPREHENSIONS, ast.ClassDef)):
            waiting += ast.iter_child_nodes(node)
    return names


def _is_registration(statement: ast.stmt) -> bool:
    """Tell whether a statement of a module is a call of `register…` or a bare constant."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rpartition(".")[2].startswith("register")
    return isinstance(value, ast.Constant)


@dataclass(frozen=True)
class Reference:
    """A path that code refers to, such as `routers:Router.forward`."""

    path: str


@cache
def normal_form(module: Module, name: str) -> NormalForm:
    """Return the normal form of a module's definition, or of its effects if the name is empty."""
    code = NormalForm(module)
    for statement in module.bound[name] if name else module.effects:
        code.write(statement, Scope())
    return code


class NormalForm:
    """The code of a definition, in a form in which only differences in effect remain.

    Attributes:
        parts: the text of the code, and references for the names in it.
        annotated: paths in its annotations, the classes of the objects that it works on.
    """

    def __init__(self, module: Module) -> None:
        self._module = module
        self.parts: list[str | Reference] = []
        self.annotated: set[str] = set()

    def write(self, node: ast.AST, scope: Scope) -> None:
        """Append a node."""
        if isinstance(node, (ast.Name, ast.Attribute)):
            path = self._module.meaning(node, scope)
            stores = isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
            if path is not None and not stores:
                self.parts.append(Reference(path))
                return
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                self._write_function(node, scope)
                return
            case ast.Call():
                self._write_call(node, scope)
                return
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                hidden = scope.hidden.union(*(stored([each.target]) for each in node.generators))
                scope = Scope(scope.imports, hidden)
            case ast.ClassDef():
                scope = replace(scope, fields=True)
            case ast.AnnAssign(value=ast.expr() as value) if not scope.fields:
                self._read_annotation(node.annotation, scope)
                node = ast.Assign([node.target], value)
            case ast.Raise():  # without its message
                node = ast.Raise(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
            case ast.Assert():
                node = ast.Assert(node.test)
        self._write_fields(node, scope)

    def _write_fields(self, node: ast.AST, scope: Scope) -> None:
        self.parts.append(f"({type(node).__name__}")
        for key, value in ast.iter_fields(node):
            value = self._effective(value, scope) if isinstance(value, list) else value
            # Empty fields are left out, since other versions of Python may not have them.
            if key not in ("ctx", "kind", "type_comment") and value not in (None, []):
                self.parts.append(f" {key}=")
                self._write_value(value, scope)
        self.parts.append(")")

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
        imports = imports_in(node, self._module.package, inside=True)
        inside = Scope({**scope.imports, **imports}, scope.hidden | own)
        self._write_value(self._effective(body, inside), inside)
        self.parts.append(")")

    def _read_annotation(self, annotation: ast.expr | None, scope: Scope) -> None:
        for node in ast.walk(annotation) if annotation else ():
            if path := self._module.meaning(node, scope):
                self.annotated.add(path)

    def _write_call(self, node: ast.Call, scope: Scope) -> None:
        name = _name_of(node.func)
        if name.endswith(("Error", "Warning", "Exception")):
            self.write(node.func, scope)  # its arguments are its message
            return
        place, names = SHOWN.get(name, (None, ()))
        positional = [each for number, each in enumerate(node.args) if number != place]
        keywords = [each for each in node.keywords if each.arg not in names]
        self._write_fields(ast.Call(node.func, positional, keywords), scope)

    def _effective(self, nodes: Iterable[object], scope: Scope) -> list[object]:
        """Return the nodes without imports, docstrings and messages."""
        return [each for each in nodes if not self._is_silent(each, scope)]

    def _is_silent(self, node: object, scope: Scope) -> bool:
        match node:
            case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Expr(value=ast.Constant()):
                return True
            case ast.AnnAssign(value=None):
                return not scope.fields
            case ast.Expr(value=ast.Call(func=function)):
                path = self._module.meaning(function, scope) or f":{_name_of(function)}"
                module, _, name = path.partition(":")
                return name in SILENT or module in SILENT
        return False


def _name_of(function: ast.expr) -> str:
    """Return the last part of the name of what is called."""
    name: str = getattr(function, "attr", getattr(function, "id", ""))
    return name
