"""The request of `run` and `plan`: a preset, and what the options change in it."""

from __future__ import annotations

from dataclasses import replace

import typer

from bench.cli.context import Place
from bench.cli.options import AUTO, RequestOptions, names, seeds_of
from bench.cli.tune import tuning_of
from bench.config import load_preset, parse_set, refuse_both, settings_of, sweep_of
from bench.plan import Request, make_request, plan_analyses
from bench.tune import with_tuned
from routers.errors import RequestError


def asked_for(place: Place, options: RequestOptions) -> Request:
    """Return the request that options make; load the plugins that it may name.

    Raises:
        BenchError, typer.BadParameter: they name what is not there, or contradict each other.
    """
    place.load(watch=True)
    changed = settings_of(options.set_ or (), options.data_dir)
    swept = sweep_of(options.sweep or ())
    refuse_both(changed, swept)
    request = make_request(
        load_preset(options.preset),
        study=options.study,
        suites=options.suites or (),
        routers=names(options.routers),
        seeds=seeds_of(options.seeds),
        settings=changed,
        sweep=swept,
        aa_replicates=options.aa,
    )
    if options.tuned or options.tuning:
        request = _with_tuned(place, request, options)
    return _adding_seeds(request, options)


def _with_tuned(place: Place, request: Request, options: RequestOptions) -> Request:
    """Return the request with the settings that a tuning found, under a name of its own."""
    name = request.preset.name
    if not place.has_store():
        raise RequestError(
            f"nothing was tuned yet, since there is no database {place.database}; `python bench.py "
            "tune` makes it, with the same --preset and --routers"
        )
    named = replace(request, study=options.study or f"{name}-tuned")
    paths = [parse_set(text)[0] for text in options.set_ or ()]
    with place.store() as store:
        return with_tuned(named, store, options.tuning or tuning_of(name), paths)


def _adding_seeds(request: Request, options: RequestOptions) -> Request:
    """Return the request with its looks, and the most seeds, where they are added."""
    resolve, most = options.resolve, options.max_seeds
    if options.seeds != AUTO:
        if resolve is not None or most is not None:
            raise typer.BadParameter("--resolve and --max-seeds belong to --seeds auto")
        return request
    points = 0.5 if resolve is None else resolve
    sequential = plan_analyses(request.preset, request.suites, points, 20 if most is None else most)
    preset = request.preset.model_copy(update={"seeds": sequential.seeds[-1]})
    return replace(request, preset=preset, sequential=sequential)
