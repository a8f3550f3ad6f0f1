"""`list`, `show`, `routers`, `new`, `check`: what is registered, and whether it is correct."""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from bench.cli.context import Place
from bench.cli.display import print_table, table

if TYPE_CHECKING:
    from routers import Choice, Entry, Range, Registry

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the new router.")]
Component = Annotated[
    str,
    typer.Argument(metavar="NAME", help="A component; KIND:NAME if several kinds share a name."),
]
MaybeKind = Annotated[
    str | None,
    typer.Argument(
        metavar="KIND",
        help="routers, experts, affinities, losses, suites or datasets; all if none is given.",
    ),
]
MaybeRouter = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="A router, to show its card; if none is given, list all."),
]
TEMPLATES = Path(__file__).parent / "templates"


def list_components(place: Place, kind: MaybeKind = None) -> None:
    """List all registered components by name.

    These are routers, what they are combined with, what measures them, and what
    they are trained on.

    \b
    Examples:
      python bench.py list
      python bench.py list datasets --plugin mine.py
    """
    place.load()
    from bench.plan import REGISTRIES, find_registry

    print_components(REGISTRIES.values() if kind is None else [find_registry(kind)])


def show(place: Place, name: Component) -> None:
    """Show the card of a router, experts, a loss, a suite or a data set.

    \b
    Examples:
      python bench.py show soft_moe
      python bench.py show experts:mlp
      python bench.py show mine --plugin mine.py
    """
    place.load()
    from bench.plan import find_component

    print_card(find_component(name))


def routers(place: Place, name: MaybeRouter = None) -> None:
    """List the routers, or show the card of one.

    Short for `list routers` and `show NAME`.

    \b
    Examples:
      python bench.py routers
      python bench.py routers soft_moe
    """
    place.load()
    from routers import ROUTERS

    if name is None:
        print_components([ROUTERS])
    else:
        print_card(ROUTERS.get(name))


def new(place: Place, name: Name) -> None:
    """Write a commented router file and its test.

    They go into the current folder; the router is complete, and passes `check` as it is.

    \b
    Example:
      python bench.py new my_router
      python bench.py check my_router --plugin my_router.py
    """
    place.load()
    for file in write_router(name, Path.cwd()):
        print(f"wrote {file}")


def check(place: Place, name: Component) -> None:
    """Check on the CPU that a router, experts, a loss, a data set or a suite is correct.

    Covers shapes, capacity, gradients, leaks between groups, extreme inputs, saving and loading,
    and training steps that continue from saved state; the images, labels and splits of a data set;
    what a suite yields on a tiny trial, against what it declares. The exit status is 1 if a check
    fails.

    \b
    Examples:
      python bench.py check soft_moe
      python bench.py check experts:mlp
      python bench.py check imagefolder:photos
      python bench.py check balance
      python bench.py check my_router --plugin my_router.py
    """
    place.load()
    from bench.check import check_component, render
    from bench.plan import find_component

    report = check_component(find_component(name), name)
    print_table(render(report))
    if not report.passed:
        raise typer.Exit(1)


def print_components(registries: Iterable[Registry]) -> None:
    """Print the name and summary of each component, by kind and family."""
    for registry in registries:
        families: dict[str, list[Entry]] = {}
        for entry in registry.entries():
            families.setdefault(entry.family, []).append(entry)
        for family, cards in families.items():
            kind = "" if registry.kind == "router" else f"{registry.kind}: "
            print(f"\n{kind}{family.replace('_', ' ')}")
            for card in cards:
                print_table(Text(f"  {card.name}", "bold"))
                print_table(Text(f"    {card.summary}", no_wrap=False))
    print("\n`python bench.py show NAME` shows a component's card.")


def print_card(card: Entry) -> None:
    """Print all that is known about a component; for a suite, also what it measures."""
    family, source = card.family.replace("_", " "), card.source or "no source given"
    display = f" ({card.display})" if card.display != card.name else ""
    print_table(Text(card.name + display, "bold"))
    print_table(Text(f"    {card.kind}; {family}; {source}", no_wrap=False))
    # The lines of a paragraph are joined; those of an indented one stay as they are.
    paragraphs = [
        text if text.startswith(" ") else " ".join(text.split()) for text in card.text.split("\n\n")
    ]
    print()
    print_table(Text("\n\n".join(filter(None, (card.summary, "\n\n".join(paragraphs))))))
    if card.hyper:
        print()
        made = table("hyper-parameter", "type", "default", "tuned over", "meaning")
        for info in card.hyper:
            made.add_row(info.name, info.type, str(info.default), _range(info.tune), info.meaning)
        print_table(made)
    if metrics := getattr(card.target, "metrics", ()):
        print()
        made = table("metric", "unit", "better", "meaning")
        for metric in metrics:
            made.add_row(metric.name, metric.unit, metric.better or "", metric.meaning)
        print_table(made)
    if card.bibtex:
        print(f"\n{card.bibtex.strip()}")
    print(f"\n{card.file}")


def _range(tune: Range | Choice | None) -> str:
    from routers import Choice

    if tune is None:
        return ""
    if isinstance(tune, Choice):
        return ", ".join(map(str, tune.options))
    return f"{tune.low:g} … {tune.high:g}{' (log)' if tune.log else ''}"


def write_router(name: str, folder: Path) -> tuple[Path, Path]:
    """Write `NAME.py` and `test_NAME.py` into a folder.

    Args:
        name: the router's name, lower-case words joined by underscores.
        folder: an existing folder to write the files to.

    Returns:
        The router's file and the test's.

    Raises:
        RequestError: the name is invalid or taken, or a file exists already; nothing is written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # lists need none of it

    from routers import ROUTERS, RequestError

    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise RequestError(
            f"{name!r} cannot name a router: a name is lower-case letters, digits and underscores, "
            f"begins with a letter, and is no Python keyword; {_valid(name)!r} would do"
        )
    files = folder / f"{name}.py", folder / f"test_{name}.py"
    for file in files:
        if file.exists():
            raise RequestError(f"{file} exists already; choose another name or move the file")
    if name in ROUTERS.names():
        raise RequestError(f"there is a router {name!r} already; {_valid(f'my_{name}')!r} would do")
    if importlib.util.find_spec(name) is not None:
        raise RequestError(
            f"{name!r} is the name of a Python module, which the file {name}.py would hide; "
            f"{_valid(f'{name}_router')!r} would do"
        )
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
    )
    class_name = "".join(word.capitalize() for word in name.split("_"))
    for file, template in zip(files, ("router.py.jinja", "test_router.py.jinja"), strict=True):
        text = templates.get_template(template).render(name=name, class_name=class_name)
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise RequestError(f"cannot write {file}: {error.strerror}") from error
    return files


def _valid(name: str) -> str:
    """Return the nearest valid name for a router."""
    from routers import ROUTERS

    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name.removesuffix(".py"))
    snake = re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")
    if not snake or not snake[0].isalpha() or keyword.iskeyword(snake):
        snake = f"router_{snake}".strip("_")
    return f"my_{snake}" if snake in ROUTERS.names() or importlib.util.find_spec(snake) else snake
