"""The registry class for routers, experts, losses, affinities, suites and data sets."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from weakref import WeakSet

from routers.errors import RequestError, unknown
from routers.hyper import (
    Configurable,
    HyperInfo,
    HyperModel,
    function_hyper_model,
    hyper_infos,
    refuse_bad_declaration,
    validated,
)

Target = TypeVar("Target", bound=Callable[..., Any])
ARXIV = re.compile(r"\b\d{4}\.\d{4,5}\b")


@dataclass(frozen=True)
class Entry:
    """A registered component: a `Configurable` class, or a function with keyword options.

    Attributes:
        kind: "router", "experts", "loss", "affinity", "suite" or "dataset".
        family: the group that it is listed under.
        display: its name as a paper prints it; by default the registered one.
        source: where it was published, as an arXiv id if there is one.
        bibtex: BibTeX entries for citing it; by default those of the papers in `references.bib`
            that its source names.
    """

    name: str
    kind: str
    family: str
    display: str
    source: str | None
    bibtex: str | None
    target: Any

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.target) or "").partition("\n")[0].strip()

    @property
    def text(self) -> str:
        """The rest of its docstring: idea, definition, cost, known limits."""
        return (inspect.getdoc(self.target) or "").partition("\n")[2].strip()

    @property
    def file(self) -> str:
        """The file that defines it."""
        return inspect.getsourcefile(self.target) or ""

    @property
    def source_text(self) -> str:
        """The text of that file."""
        return inspect.getsource(inspect.getmodule(self.target) or self.target)

    @property
    def hyper_model(self) -> type[HyperModel]:
        """The model that validates the component's options."""
        if isinstance(self.target, type) and issubclass(self.target, Configurable):
            return self.target.hyper_model
        return function_hyper_model(self.target)

    @property
    def hyper(self) -> list[HyperInfo]:
        """Its hyper-parameters."""
        return hyper_infos(self.hyper_model)

    def validate(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return `options` with defaults filled in; raise `RequestError` if one is invalid."""
        return validated(self.hyper_model, f"{self.kind} {self.name!r}", options)


class Registry:
    """The components of one kind, by name."""

    instances: ClassVar[WeakSet[Registry]] = WeakSet()

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._is = "are" if kind == "experts" else "is"
        Registry.instances.add(self)
        self._entries: dict[str, Entry] = {}

    def register(
        self,
        name: str,
        *,
        family: str = "other",
        display: str | None = None,
        source: str | None = None,
        bibtex: str | None = None,
    ) -> Callable[[Target], Target]:
        """Return a decorator that registers a class or function under `name`.

        Raises:
            RequestError: the name is taken, a hyper-parameter rejects its own default, or the class
                lacks a declaration that its kind requires.
        """

        def decorate(target: Target) -> Target:
            taken = self._entries.get(name)
            if taken is not None and taken.target is not target:
                raise RequestError(
                    f"{self.kind} {name!r} {self._is} registered already, by "
                    f"{inspect.getsourcefile(taken.target)}; choose another name"
                )
            cited = bibtex or bibtex_of(source or "")
            entry = Entry(name, self.kind, family, display or name, source, cited, target)
            refuse_bad_declaration(entry.hyper_model, f"{self.kind} {name!r}")
            if isinstance(target, type) and issubclass(target, Configurable):
                target.refuse_bad_class(f"{self.kind} {name!r}")
                target.name = name  # type: ignore[attr-defined]
            self._entries[name] = entry
            return target

        return decorate

    def get(self, name: str) -> Entry:
        """Return the component of that name, or raise `RequestError` with the nearest names."""
        if not isinstance(name, str) or name not in self._entries:
            raise RequestError(
                f"no {self.kind} {self._is} named {name!r}{unknown(str(name), self._entries)}"
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """Return every name, in the order of registration."""
        return list(self._entries)

    def entries(self) -> list[Entry]:
        """Return every component, in the order of registration."""
        return list(self._entries.values())

    def discard(self, name: str) -> None:
        """Remove a component, such as one that a plugin registered before it failed."""
        self._entries.pop(name, None)


def bibtex_of(source: str) -> str | None:
    """Return the entries of the papers that a source names by arXiv id; None if none is known."""
    known = [_references()[paper] for paper in ARXIV.findall(source) if paper in _references()]
    return "\n\n".join(known) or None


@cache
def _references() -> dict[str, str]:
    """Return the entries of `references.bib`, which blank lines separate, by arXiv id."""
    text = Path(__file__).with_name("references.bib").read_text(encoding="utf-8")
    return {ARXIV.findall(entry)[0]: entry for entry in text.strip().split("\n\n")}
