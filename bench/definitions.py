"""Which definitions of this repository a piece of code depends on, and a digest of each.

A definition is all that binds one name at the top level of a module: a function, a class, an
assignment. Its digest is of its code alone: without comments, docstrings, annotations that nothing
reads, the texts of errors, warnings and hyper-parameters, and with each name replaced by what it
means. So a digest outlives a module that is renamed, a function that is moved, an import that is
written otherwise and an error that is reworded; what can change a number changes it.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from moe_router_bench import FOLDER, PACKAGES

HOME = Path(FOLDER)
NO_NUMBERS = frozenset(
    (
        "bench.checkpoint",
        "bench.outcome",
        "bench.resume",
        "bench.state",
        "routers.errors",
        "routers.registry",
    )
)
"""Modules that keep, name or report what others compute: what is used of them is not followed."""

SILENT = ("print", "emit", "logging.", "warnings.")
"""Calls that only say something, by name or by the beginning of it, where nobody takes a result."""
SHOWN: Mapping[str, tuple[int | None, tuple[str, ...]]] = {
    "Field": (None, ("description",)),
    "MetricDef": (3, ("meaning",)),
    "hyper": (1, ("meaning", "tune")),
}
"""By the name of what is called: arguments that change no number that a given value leads to, by
place and by name."""

Names = dict[str, str]
"""What a name means, as a path of a module and a name in it: "F" -> "torch.nn:functional"."""


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


@dataclass(frozen=True)
class Definition:
    """A name of a module; `name` is empty for the statements that bind none."""

    module: str
    name: str


@dataclass(frozen=True)
class Code:
    """Definitions, as what a fingerprint takes from them.

    Attributes:
        digests: (name, SHA-256) of each.
        uses: (SHA-256, SHA-256) of each that names another, and of that one.
    """

    digests: frozenset[tuple[str, str]]
    uses: frozenset[tuple[str, str]]

    @property
    def lines(self) -> list[str]:
        """All of it as text."""
        return [*(digest for _, digest in self.digests), *map(" ".join, self.uses)]


@dataclass(frozen=True)
class Scope:
    """What names mean inside a definition.

    Attributes:
        imports: those that functions around import.
        hidden: variables of functions around, whatever a module's names of that spelling mean.
        fields: whether annotations count: those in a class body can be its fields.
    """

    imports: Mapping[str, str] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    fields: bool = False


class Module:
    """One parsed file.

    Args:
        tree: its syntax tree.
        name: its dotted name.
        package: of which it is, to which relative imports belong.

    Attributes:
        imports: what each name means that an import at the top level binds.
        bound: by name, the statements that define it.
        effects: statements that define nothing and are more than a registration.
        stars: modules of which everything is imported.
    """

    def __init__(self, tree: ast.Module, name: str, package: str) -> None:
        self.name, self._package = name, package
        self.imports: Names = {}
        self.bound: dict[str, list[ast.stmt]] = {}
        self.effects: list[ast.stmt] = []
        self.stars: list[str] = []
        self._written: dict[str, Written] = {}
        for statement in tree.body:
            self._read(statement)

    def _read(self, statement: ast.stmt) -> None:
        self.imports |= imports_in(statement, self._package, inside=False)
        if isinstance(statement, ast.If) and _is_for_others(statement.test):
            return
        self.stars += stars_in(statement, self._package)
        names = _stored([statement])
        for name in names:
            self.bound.setdefault(name, []).append(statement)
        silent = isinstance(statement, ast.Expr) and self._is_silent(statement.value, Scope())
        if not (names or silent or imports_in(statement, self._package, inside=False)):
            self.effects.append(statement)

    def written(self, name: str) -> Written:
        """The code of a definition of this module, or of its effects where the name is empty."""
        if name not in self._written:
            writer = _Writer(self)
            for statement in self.bound[name] if name else self.effects:
                writer.write(statement, Scope())
            self._written[name] = Written(tuple(writer.parts), frozenset(writer.annotated))
        return self._written[name]

    def references(self) -> set[str]:
        """All paths that the file names."""
        each = [self.written(name) for name in ["", *self.bound]]
        named = {part.path for code in each for part in code.parts if isinstance(part, Reference)}
        return named.union(self.stars, *(code.annotated for code in each))

    def meaning(self, node: ast.AST, scope: Scope) -> str | None:
        """The path that `a.b.c` stands for; None where `a` is no name of the module's."""
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
        """What names mean that a function imports."""
        return imports_in(function, self._package, inside=True)

    def _is_silent(self, value: ast.expr, scope: Scope) -> bool:
        """Whether a statement of this expression changes nothing."""
        if isinstance(value, ast.Constant):
            return True
        if not isinstance(value, ast.Call):
            return False
        path = self.meaning(value.func, scope)
        called = path.replace(":", ".").strip(".") if path else _name_of(value.func)
        # What a registry holds is followed from the description that names it.
        registers = called.rpartition(".")[2].startswith("register")
        return registers or any(
            called.startswith(name) if name.endswith(".") else called == name for name in SILENT
        )

    def is_silent(self, node: object, scope: Scope) -> bool:
        """Whether a node is of no effect: an import, a docstring, a message."""
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Pass)):
            return True
        if isinstance(node, ast.AnnAssign) and node.value is None and not scope.fields:
            return True
        return isinstance(node, ast.Expr) and self._is_silent(node.value, scope)


class _Writer:
    """Writes the code of a definition in a form in which only what has an effect differs."""

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
            hidden = scope.hidden.union(*(_stored([each.target]) for each in node.generators))
            self._write_fields(node, Scope(scope.imports, hidden))
        elif isinstance(node, ast.ClassDef):
            self._write_fields(node, Scope(scope.imports, scope.hidden, fields=True))
        elif isinstance(node, ast.AnnAssign) and not scope.fields:
            self._read_annotation(node.annotation, scope)
            self._write_fields(ast.Assign([node.target], node.value), scope)
        elif isinstance(node, ast.Raise):
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            self._write_fields(ast.Raise(raised), scope)  # without its message
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
        """A field of a node, statements of no effect left out of a list of them."""
        if not isinstance(value, list):
            return value
        return [each for each in value if not self._module.is_silent(each, scope)]

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
        given = node.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        own = {argument.arg for argument in arguments if argument} | _stored(body)
        for each in (getattr(node, "returns", None), *(one.annotation for one in arguments if one)):
            self._read_annotation(each, scope)
        decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
        self.parts.append(f"({type(node).__name__} {getattr(node, 'name', '')}")
        self._write_value(decorators, scope)
        for argument in arguments:
            self.parts.append(f" {argument.arg if argument else None}")
        self._write_value(
            [*given.defaults, *(each or ast.Pass() for each in given.kw_defaults)], scope
        )
        # The options of a component that is a function are validated by their annotations.
        options = [each.annotation for each in given.kwonlyargs if decorators and each.annotation]
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
        given = [each for number, each in enumerate(node.args) if number != place]
        keywords = [each for each in node.keywords if each.arg not in names]
        self._write_fields(ast.Call(node.func, given, keywords), scope)


class Definitions:
    """The definitions of a copy of this repository.

    Args:
        folder: where its packages lie.
        without: modules whose definitions are not followed.
    """

    def __init__(self, folder: Path = HOME, without: frozenset[str] = NO_NUMBERS) -> None:
        self._folder, self._without = folder, without
        self._modules: dict[str, Module | None] = {}
        self._known: dict[Definition, tuple[str, frozenset[Definition]]] = {}

    def code(self, roots: Iterable[Definition]) -> Code:
        """These definitions, and all that they depend on."""
        reached: set[Definition] = set()
        waiting = list(roots)
        while waiting:
            definition = waiting.pop()
            if definition not in reached:
                reached.add(definition)
                waiting += self._read(definition)[1]
        digest = {each: self._read(each)[0] for each in reached}
        return Code(
            frozenset((each.name or "statements", digest[each]) for each in reached),
            frozenset(
                (digest[each], digest[used]) for each in reached for used in self._read(each)[1]
            ),
        )

    def of(self, module: str, name: str) -> frozenset[Definition]:
        """The definition of that name in a module; all of the module where it has no such.

        Raises:
            LookupError: there is no such module, or nothing in it is followed.
        """
        found = self.meant_by(f"{module}:{name}") or self.meant_by(f"{module}:")
        if not found:
            raise LookupError(f"{name} of {module} cannot be followed")
        return found

    def meant_by(self, path: str) -> frozenset[Definition]:
        """The definitions that a path leads to; none where it leads out of here."""
        return self._resolve(path)[0]

    def _read(self, definition: Definition) -> tuple[str, frozenset[Definition]]:
        """The digest of a definition, and the definitions that it names."""
        if definition not in self._known:
            module = self._module(definition.module)
            assert module is not None  # it was found there
            written = module.written(definition.name)
            text, used = [], set[Definition]()
            for part in written.parts:
                if isinstance(part, Reference):
                    found, name = self._resolve(part.path)
                    text.append(f"<{name}>")
                    used |= found
                else:
                    text.append(part)
            if definition.name and module.effects:
                used.add(Definition(definition.module, ""))
            for path in written.annotated:
                used |= self.meant_by(path)
            digest = hashlib.sha256("".join(text).encode()).hexdigest()
            self._known[definition] = digest, frozenset(used - {definition})
        return self._known[definition]

    def _resolve(self, path: str) -> tuple[frozenset[Definition], str]:
        """What a path leads to, and how it is written without the name of a module here."""
        name, _, rest = path.partition(":")
        names, seen = rest.split(".") if rest else [], set[str]()
        while (module := self._module(name)) is not None:
            if not names:
                return self._whole(module), name.rpartition(".")[2]
            first, *others = names
            through = module.imports.get(first)
            if first in module.bound:
                skipped = name in self._without
                return frozenset(() if skipped else (Definition(name, first),)), ".".join(names)
            if through is not None and f"{name}:{first}" not in seen:
                seen.add(f"{name}:{first}")
                name, _, rest = through.partition(":")
                names = [*(rest.split(".") if rest else []), *others]
            elif self._module(f"{name}.{first}") is not None:
                name, names = f"{name}.{first}", others
            else:
                break
        return frozenset(), ".".join([name, *names])

    def _whole(self, module: Module) -> frozenset[Definition]:
        """Everything that a module offers."""
        if module.name in self._without:
            return frozenset()
        offered = (self._resolve(path)[0] for path in module.imports.values())
        return frozenset(Definition(module.name, name) for name in module.bound).union(*offered)

    def _module(self, name: str) -> Module | None:
        if name not in self._modules:
            path = self._folder.joinpath(*name.split("."))
            files = (path / "__init__.py", path.with_name(f"{path.name}.py"))
            file = next((each for each in files if each.is_file()), None)
            own = name.partition(".")[0] in PACKAGES
            self._modules[name] = (
                parsed(file.read_text("utf-8"), name, file.stem) if own and file else None
            )
        return self._modules[name]


@cache
def parsed(text: str, name: str, stem: str) -> Module:
    """A file's module.

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
    """What each name means that is imported here.

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
    """Modules of which everything is imported."""
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return [f"{imported_module(node, package)}:" for node in froms if node.names[0].name == "*"]


def imported_module(node: ast.ImportFrom, package: str) -> str:
    """The absolute name of the module that a file of a package imports from."""
    parts = package.split(".") if package and node.level else []
    above = parts[: len(parts) - node.level + 1] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def _walk(tree: ast.AST, inside: bool) -> Iterator[ast.AST]:
    """A node and those below it, without those of functions and classes unless `inside`."""
    yield tree
    defines = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    if inside or not isinstance(tree, defines):
        for node in ast.iter_child_nodes(tree):
            yield from _walk(node, inside)


def _stored(statements: Iterable[ast.AST]) -> set[str]:
    """The names that statements bind where they stand, imports left out."""
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


def _name_of(function: ast.expr) -> str:
    """The last name of what is called."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _is_for_others(test: ast.expr) -> bool:
    """Whether a branch is the type checker's, or a script's."""
    text = ast.unparse(test)
    return "TYPE_CHECKING" in text or "__name__" in text
