"""`list`, `show`, `routers`, `new`, `check`: what is registered, and whether it is right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.context import Place, command

Name = Annotated[str, typer.Argument(metavar="NAME", help="A router.")]
Component = Annotated[
    str,
    typer.Argument(metavar="NAME", help="NAME or, where several kinds have it, KIND:NAME."),
]
MaybeKind = Annotated[
    str | None,
    typer.Argument(
        metavar="KIND",
        help="routers, experts, affinities, losses, suites or datasets; all where none.",
    ),
]
MaybeRouter = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="A router, for its card; a list of all where none."),
]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    command(app, "list")(list_components)
    command(app)(show)
    command(app)(routers)
    command(app)(new)
    command(app)(check)


def list_components(place: Place, kind: MaybeKind = None) -> None:
    """List everything that the bench has by name.

    Routers, what they are combined with, what measures them, and what they are
    trained on.

    \b
    Examples:
      python bench.py list
      python bench.py list datasets --plugin mine.py
    """
    place.load()
    from bench.cli.cards import print_components
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
    from bench.cli.cards import print_card
    from bench.plan import find_component

    print_card(find_component(name))


def routers(place: Place, name: MaybeRouter = None) -> None:
    """List the routers, or show the card of one.

    In short what `list routers` and `show NAME` do.

    \b
    Examples:
      python bench.py routers
      python bench.py routers soft_moe
    """
    place.load()

    from bench.cli.cards import print_card, print_components
    from routers import ROUTERS

    if name is None:
        print_components([ROUTERS])
    else:
        print_card(ROUTERS.get(name))


def new(place: Place, name: Name) -> None:
    """Write a commented router file with its test.

    Into the current folder; it is complete, and passes `check` as it is.

    \b
    Example:
      python bench.py new my_router
      python bench.py check my_router --plugin my_router.py
    """
    place.load()

    from bench.cli.cards import write_router

    for file in write_router(name, Path.cwd()):
        print(f"wrote {file}")


def check(place: Place, name: Component) -> None:
    """Prove a router, experts, a loss or a data set correct, on a CPU.

    Shapes, capacity, gradients, leaks between groups, extreme inputs, save and load, training
    steps that go on from saved state; of a data set its images, labels and splits. The exit status
    is 1 where a check fails.

    \b
    Examples:
      python bench.py check soft_moe
      python bench.py check experts:mlp
      python bench.py check imagefolder:photos
      python bench.py check my_router --plugin my_router.py
    """
    place.load()
    from bench.check import check_component, render
    from bench.cli.display import print_table
    from bench.plan import find_component

    report = check_component(find_component(name), name)
    print_table(render(report))
    if not report.passed:
        raise typer.Exit(1)
