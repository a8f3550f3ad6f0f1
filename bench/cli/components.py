"""`routers`, `new`, `check`: what is registered, a file to start from, and whether it is right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.place import Place, command

Name = Annotated[str, typer.Argument(metavar="NAME", help="A router.")]
MaybeName = Annotated[
    str | None, typer.Argument(metavar="NAME", help="A router, for its card; all where none.")
]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    command(app)(routers)
    command(app)(new)
    command(app)(check)


def routers(place: Place, name: MaybeName = None) -> None:
    """List the registered routers, or show the card of one.

    \b
    Examples:
      python bench.py routers
      python bench.py routers soft_moe
      python bench.py routers mine --plugin mine.py
    """
    place.load()
    from bench.cli.cards import print_card, print_routers
    from routers import ROUTERS

    if name is None:
        print_routers(ROUTERS.entries())
    else:
        print_card(ROUTERS.get(name).card())


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


def check(place: Place, name: Name) -> None:
    """Prove a router correct, in seconds on a CPU.

    Shapes, capacity, gradients, leaks between groups, extreme inputs, save and load. The exit
    status is 1 where a check fails.

    \b
    Examples:
      python bench.py check soft_moe
      python bench.py check my_router --plugin my_router.py
    """
    place.load()
    from bench.check import check_router, render
    from bench.cli.words import show

    report = check_router(name)
    show(render(report))
    if not report.passed:
        raise typer.Exit(1)
