"""Which definitions of this repository a piece of code depends on, and a digest of each.

A definition is everything that binds one name at the top level of a module: a function, a class or
an assignment. Its digest is that of its normal form, with each name replaced by the name of the
definition it refers to. So renaming a module, moving a function, writing an import differently or
rewording an error leaves the digest unchanged; anything that can change a number changes it.
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
"""Modules that only store, name or report what others compute: uses of them are not followed."""


@dataclass(frozen=True)
class Definition:
    """A name that a module defines; `name` is empty for the statements that bind no name."""

    module: str
    name: str


@dataclass(frozen=True)
class Code:
    """The code of a set of definitions, as a fingerprint covers it.

    Attributes:
        digests: (name, SHA-256) of each definition.
        uses: (SHA-256, SHA-256) of each definition and of another one that it refers to.
    """

    digests: frozenset[tuple[str, str]]
    uses: frozenset[tuple[str, str]]

    @property
    def lines(self) -> list[str]:
        """All digests and uses as text."""
        return [*(digest for _, digest in self.digests), *map(" ".join, self.uses)]


class _Read(NamedTuple):
    """A definition's digest, and the definitions that its code and its annotations refer to."""

    digest: str
    named: frozenset[Definition]
    annotated: frozenset[Definition]


class Definitions:
    """The definitions in a copy of this repository; modules in `without` are not followed."""

    def __init__(self, folder: Path = HOME, without: frozenset[str] = NO_NUMBERS) -> None:
        self._folder, self._without = folder, without
        self._modules: dict[str, Module | None] = {}
        self._known: dict[Definition, _Read] = {}

    def code(self, roots: Iterable[Definition]) -> Code:
        """Return the code of these definitions and of everything that they depend on."""
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
        """Return the definition of a name in a module, or the whole module if it lacks the name.

        Raises:
            LookupError: the module does not exist, or nothing in it is followed.
        """
        definitions = self.meant_by(f"{module}:{name}") or self.meant_by(f"{module}:")
        if not definitions:
            raise LookupError(f"{name} of {module} cannot be followed")
        return definitions

    def meant_by(self, path: str) -> frozenset[Definition]:
        """Return the definitions that a path leads to; none if it leads outside this copy."""
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
        """Return a path's definitions, and the path without this repository's module names."""
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
        """Return everything that a module defines or imports."""
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
