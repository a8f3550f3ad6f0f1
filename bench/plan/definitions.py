"""Which definitions of this repository a piece of code depends on, and a digest of each.

A definition is all that binds one name at the top level of a module: a function, a class, an
assignment. Its digest is of its normal form, with each name replaced by that of the definition that
it means. So a digest outlives a module that is renamed, a function that is moved, an import that is
written otherwise and an error that is reworded; what can change a number changes it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.plan.normal_form import Module, Reference, normal_form, parsed
from moe_router_bench import FOLDER, PACKAGES

HOME = Path(FOLDER)
NO_NUMBERS = frozenset(
    (
        *("bench.data.files", "bench.train.outcome", "bench.train.checkpoint"),
        *("routers.errors", "routers.registry"),
    )
)
"""Modules that keep, name or report what others compute: what is used of them is not followed."""


@dataclass(frozen=True)
class Definition:
    """A name of a module; `name` is empty for the statements that bind none."""

    module: str
    name: str


@dataclass(frozen=True)
class Code:
    """The code of definitions, as a fingerprint takes it.

    Attributes:
        digests: (name, SHA-256) of each.
        uses: (SHA-256, SHA-256) of each that names another, and of that one.
    """

    digests: frozenset[tuple[str, str]]
    uses: frozenset[tuple[str, str]]

    @property
    def lines(self) -> list[str]:
        """All digests and uses as text."""
        return [*(digest for _, digest in self.digests), *map(" ".join, self.uses)]


class _Read(NamedTuple):
    """A definition's digest, and the definitions that its code and its annotations name."""

    digest: str
    named: frozenset[Definition]
    annotated: frozenset[Definition]


class Definitions:
    """The definitions of a copy of this repository, which are not followed in some modules."""

    def __init__(self, folder: Path = HOME, without: frozenset[str] = NO_NUMBERS) -> None:
        self._folder, self._without = folder, without
        self._modules: dict[str, Module | None] = {}
        self._known: dict[Definition, _Read] = {}

    def code(self, roots: Iterable[Definition]) -> Code:
        """Collect these definitions and all that they depend on."""
        reached: dict[Definition, _Read] = {}
        waiting = list(roots)
        while waiting:
            definition = waiting.pop()
            if definition not in reached:
                reached[definition] = read = self._read(definition)
                waiting += read.named | read.annotated
        return Code(
            frozenset((each.name or "statements", read.digest) for each, read in reached.items()),
            frozenset(
                (read.digest, reached[used].digest)
                for read in reached.values()
                for used in read.named
            ),
        )

    def of(self, module: str, name: str) -> frozenset[Definition]:
        """Return the definition of that name in a module; all of the module where it has no such.

        Raises:
            LookupError: there is no such module, or nothing in it is followed.
        """
        definitions = self.meant_by(f"{module}:{name}") or self.meant_by(f"{module}:")
        if not definitions:
            raise LookupError(f"{name} of {module} cannot be followed")
        return definitions

    def meant_by(self, path: str) -> frozenset[Definition]:
        """Return the definitions that a path leads to; none where it leads out of this copy."""
        return self._resolve(path)[0]

    def _read(self, definition: Definition) -> _Read:
        if definition in self._known:
            return self._known[definition]
        module = self._module(definition.module)
        assert module is not None  # it was found there
        code, text, named = normal_form(module, definition.name), "", set[Definition]()
        for part in code.parts:
            if isinstance(part, Reference):
                meant, name = self._resolve(part.path)
                text += f"<{name}>"
                named |= meant
            else:
                text += part
        if definition.name and module.effects and module.name not in self._without:
            named.add(Definition(definition.module, ""))
        annotated = frozenset[Definition]().union(*map(self.meant_by, code.annotated))
        digest = hashlib.sha256(text.encode()).hexdigest()
        read = self._known[definition] = _Read(digest, frozenset(named - {definition}), annotated)
        return read

    def _resolve(self, path: str) -> tuple[frozenset[Definition], str]:
        """Resolve a path, and write it without the name of a module of this repository."""
        name, _, rest = path.partition(":")
        names, seen = rest.split(".") if rest else [], set[str]()
        while (module := self._module(name)) is not None:
            if not names:
                return self._whole(module), name.rpartition(".")[2]
            first, *others = names
            through = module.imports.get(first)
            if first in module.bound:
                own = () if name in self._without else (Definition(name, first),)
                return frozenset(own), ".".join(names)
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
        """Return everything that a module offers."""
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
