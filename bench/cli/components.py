"""`routers`, `new`, `check`: what is registered, a file to start from, and whether it is right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.place import Place, command

Name = Annotated[str, typer.Argument(metavar="NAME", help="A router.")]
Component = Annotated[
    str,
    typer.Argument(metavar="NAME", help="A router, experts or a loss, as NAME or KIND:NAME."),
]
MaybeName = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="A component, for its card; a list of all where none."),
]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    command(app)(routers)
    command(app)(new)
    command(app)(check)


def routers(place: Place, name: MaybeName = None) -> None:
    """List what is registered, or show the card of one component.

    Routers, and what they are combined with: experts, affinities, losses.

    \b
    Examples:
      python bench.py routers
      python bench.py routers soft_moe
      python bench.py routers experts:mlp
      python bench.py routers mine --plugin mine.py
    """
    place.load()
    from bench.cli.cards import print_card, print_components
    from bench.registries import REGISTRIES, find_component

    if name is None:
        print_components(REGISTRIES)
    else:
        print_card(find_component(name).card())


def new(place: Place, name: Name) -> None:
    """Write a commented router file with its test.

    Into the current folder; it is complete, and passes `check` as it is.

    \b
    Example:
      python bench.py new my_router
      python bench.py check my_router --plugin my_router.py
    """
    place.load()
    from bench.new import write_router

    for file in write_router(name, Path.cwd()):
        print(f"wrote {file}")


def check(place: Place, name: Component) -> None:
    """Prove a router, experts or a loss correct, in seconds on a CPU.

    Shapes, capacity, gradients, leaks between groups, extreme inputs, save and load, training
    steps that go on from saved state. The exit status is 1 where a check fails.

    \b
    Examples:
      python bench.py check soft_moe
      python bench.py check experts:mlp
      python bench.py check my_router --plugin my_router.py
    """
    place.load()
    from bench.check import check_component, render
    from bench.cli.words import show
    from bench.registries import find_component

    report = check_component(find_component(name))
    show(render(report))
    if not report.passed:
        raise typer.Exit(1)
