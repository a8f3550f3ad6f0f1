"""What `run` and `plan` are asked for: a preset, and what the options change in it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from bench.cli.context import Place
from bench.cli.options import AUTO, names, seeds_of
from bench.cli.tune import tuning_of
from bench.config import load_preset, parse_set, refuse_both, settings_of, sweep_of
from bench.plan import Request, make_request, plan_analyses
from bench.tune import with_tuned
from routers.errors import RequestError

if TYPE_CHECKING:
    pass


def asked_for(
    place: Place,
    *,
    suites: list[str] | None,
    preset: str,
    routers: str | None,
    seeds: str | None,
    resolve: float | None,
    max_seeds: int | None,
    aa: bool,
    tuned: bool,
    tuning: str | None,
    settings: list[str] | None,
    sweep: list[str] | None,
    data_dir: str | None,
    study: str | None,
) -> Request:
    """The request that options of these names make; loads the plugins that it may name.

    Raises:
        BenchError, typer.BadParameter: they name what is not there, or contradict each other.
    """
    place.load()
    changed, swept = settings_of(settings or (), data_dir), sweep_of(sweep or ())
    refuse_both(changed, swept)
    request = make_request(
        load_preset(preset),
        study=study,
        suites=suites or (),
        routers=names(routers),
        seeds=seeds_of(seeds),
        settings=changed,
        sweep=swept,
        aa_replicates=aa,
    )
    if tuned or tuning:
        request = _with_tuned(place, request, study, tuning, settings)
    return _adding_seeds(request, seeds, resolve, max_seeds)


def _with_tuned(
    place: Place, request: Request, study: str | None, tuning: str | None, given: list[str] | None
) -> Request:
    """The request with the settings that a tuning found, under a name of its own."""
    name = request.preset.name
    if not place.has_store():
        raise RequestError(
            f"nothing was tuned yet, since there is no database {place.database}; `python bench.py "
            "tune` makes it, with the same --preset and --routers"
        )
    named = replace(request, study=study or f"{name}-tuned")
    paths = [parse_set(text)[0] for text in given or ()]
    with place.store() as store:
        return with_tuned(named, store, tuning or tuning_of(name), paths)


def _adding_seeds(
    request: Request, seeds: str | None, resolve: float | None, most: int | None
) -> Request:
    """The request with its looks, and the most seeds, where they are added."""
    if seeds != AUTO:
        if resolve is not None or most is not None:
            raise typer.BadParameter("--resolve and --max-seeds belong to --seeds auto")
        return request
    points = 0.5 if resolve is None else resolve
    sequential = plan_analyses(request.preset, request.suites, points, 20 if most is None else most)
    preset = request.preset.model_copy(update={"seeds": sequential.seeds[-1]})
    return replace(request, preset=preset, sequential=sequential)
