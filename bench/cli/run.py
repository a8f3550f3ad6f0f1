"""`run` and `plan`: carry out a request, or show what it would take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bench.cli.context import Place, classified
from bench.cli.options import (
    AUTO,
    NoReport,
    RequestOptions,
    Retry,
    WorkerOptions,
    WorkOptions,
    names,
    seeds_of,
)

if TYPE_CHECKING:
    from bench.cli.array import ArrayEnd
    from bench.cli.standing import Standing
    from bench.execute import RunSummary
    from bench.plan import Plan, Request, Sequential
    from report.comparisons import Comparison
    from results import Store

MOST_FILES = 10
"""The most files that one message names."""


def run(
    place: Place,
    request: RequestOptions,
    work: WorkOptions,
    retry: Retry = None,
    no_report: NoReport = False,
) -> None:
    """Train and measure what is not done yet, then write the report.

    Trials whose description, data and source have not changed are reused; an interrupted training
    continues from its last checkpoint. A trial that fails is recorded with its traceback and log,
    and the others continue; the exit status is then 1. Ctrl-C saves and stops, and the same
    command resumes; a second Ctrl-C stops at once.

    --seeds auto adds seeds, the same for every router, until each difference in test accuracy,
    from a null or between two routers, is decided: resolved, or smaller than --resolve points.
    Interim analyses take place at the preset's number of seeds (at least 3), at twice as many, and
    so on up to --max-seeds. A difference is resolved if its p-value over all differences of its
    condition, times the number of planned analyses (Bonferroni), is below 0.05; it is smaller if
    its interval at 1 - 0.05 / analyses, which holds for all of them at once, lies within plus or
    minus --resolve. So under any condition chance alone finds a difference in at most 5 % of all
    studies, whichever analysis is the last.

    \b
    Examples:
      python bench.py run --preset tiny
      python bench.py run balance entropy --preset smoke
      python bench.py run --routers soft_moe,dense --seeds 5 --set train.lr=1e-3
      python bench.py run --routers soft_moe,dense --seeds auto --resolve 1
      python bench.py run --sweep router.affinity=linear,cosine --study affinities
      python bench.py run --preset study --devices 0,1 --timeout 9h --retry failed
    """
    from bench.cli.array import asked_array, work_by_array
    from bench.cli.digest import digest_of
    from bench.cli.live import Display
    from bench.cli.standing import read_standing
    from bench.cli.summary import main_metrics, print_standings
    from bench.data import Datasets
    from bench.execute import in_array, prepare_plan, run_plan
    from bench.plan import make_plan
    from results import StoreError
    from routers.errors import BenchError

    asked = asked_for(place, request)
    cluster = asked_array(work, asked.preset)
    options, datasets = work.run_options(place.plugins, retry), Datasets()
    planned = make_plan(asked, datasets)
    with place.store(create=True) as store:

        def do(part: Plan) -> RunSummary:
            with Display(store, asked.study) as display:
                return run_plan(part, store, place.home, datasets, display, options)

        reached = None if asked.sequential is None else _progress(planned, store)

        def prepare(gpus: int) -> int:
            part = planned if reached is None else _part(planned, reached, reached.next)
            due = prepare_plan(part, store, place.home, datasets, options, gpus)
            return due or int(reached is not None and not reached.over)

        summary: RunSummary | ArrayEnd
        try:
            if cluster is not None:
                summary = work_by_array(place, asked.study, store, work, cluster, options, prepare)
            else:
                summary = do(planned) if reached is None else _add_seeds(planned, store, do)
        except StoreError as error:  # no mistake in the request
            raise BenchError(f"{error}; resume with the same command") from error
        if in_array():
            leave(place, summary)
            return
        standing = read_standing(store, asked.study)
        metrics = main_metrics(store, asked.study, history=True)
        # Write before printing: printing may fail, for example into a closed pipe.
        wrong = None if no_report or summary.left else _report(store, standing, place.home)
        digest = digest_of(standing, metrics, place.home)
    print_standings(asked.study, metrics[metrics["current"]], asked.suites)
    print(f"\n{digest}")
    leave(place, summary, [f"the report could not be written: {wrong}"] if wrong else [])


def plan(place: Place, request: RequestOptions, workers: WorkerOptions) -> None:
    """Show what `run` would do, what it would take and when it would be done.

    It shows trials, parameters, FLOPs, memory and disk, and what is reused or why not. Nothing is
    trained or measured. The finishing time follows from the FLOPs of each training, the FLOP rate
    that earlier trials reached on this machine, and the time that each suite took; it is unknown
    until the first trial has run here, and without the preset's data.

    \b
    Examples:
      python bench.py plan --preset tiny
      python bench.py plan --preset study --routers soft_moe,dense --seeds 1
    """
    from bench.cli.plan import print_plan

    print_plan(asked_for(place, request), place, workers.jobs, names(workers.devices))


def asked_for(place: Place, options: RequestOptions) -> Request:
    """Return the request that the options describe; load the plugins that it may name.

    Raises:
        BenchError, typer.BadParameter: they name something that does not exist, or contradict
            each other.
    """
    place.load(watch=True)
    from bench.config import load_preset, settings_of, sweep_of
    from bench.plan import make_request, plan_analyses
    from bench.tune import tuning_of, with_tuned
    from routers.errors import RequestError

    settings = settings_of(options.set_ or (), options.data_dir)
    swept = sweep_of(options.sweep or (), settings)
    request = make_request(
        load_preset(options.preset),
        study=options.study,
        suites=options.suites or (),
        routers=names(options.routers),
        seeds=seeds_of(options.seeds),
        settings=settings,
        sweep=swept,
        aa_replicates=options.aa,
    )
    if options.tuned or options.tuning:
        if not place.has_store():
            raise RequestError(
                f"nothing was tuned yet, since there is no database {place.shown}; "
                "run `python bench.py tune` with the same --preset and --routers first"
            )
        name = request.preset.name
        request = replace(request, study=options.study or f"{name}-tuned")
        with place.store() as store:
            request = with_tuned(request, store, options.tuning or tuning_of(name), settings)
    resolve, most = options.resolve, options.max_seeds
    if options.seeds != AUTO:
        if resolve is not None or most is not None:
            raise typer.BadParameter("--resolve and --max-seeds belong to --seeds auto")
        return request
    points = 0.5 if resolve is None else resolve
    sequential = plan_analyses(request.preset, request.suites, points, 20 if most is None else most)
    return _with_seeds(request, sequential, sequential.seeds[-1])


def _with_seeds(request: Request, sequential: Sequential, seeds: int) -> Request:
    preset = request.preset.model_copy(update={"seeds": seeds})
    return replace(request, preset=preset, sequential=sequential)


def _progress(plan: Plan, store: Store) -> Sequential:
    """Return the rule of a plan with `--seeds auto`, with the progress that its study has made.

    Raises:
        RequestError: the study was planned with other analyses.
    """
    from bench.plan import refuse_other_analyses

    request = plan.request
    assert request.sequential is not None
    before = next((each.request for each in store.studies() if each.name == request.study), {})
    refuse_other_analyses(request.study, request.sequential, before)
    return request.sequential.going_on(before.get("sequential", {}))


def _part(plan: Plan, reached: Sequential, seeds: int) -> Plan:
    """Return the part of a plan with `--seeds auto` that has so many seeds."""
    trials = tuple(planned for planned in plan.trials if planned.spec.seed < seeds)
    return replace(plan, request=_with_seeds(plan.request, reached, seeds), trials=trials)


def _add_seeds(plan: Plan, store: Store, do: Callable[[Plan], RunSummary]) -> RunSummary:
    """Do a plan with `--seeds auto` until all is decided or its limit is reached.

    Args:
        do: carries out one part of the plan.

    Returns:
        The summary of the last part.
    """
    from bench.plan import add_seeds
    from report.comparisons import comparisons
    from report.study import load_study

    request, name, summaries = plan.request, plan.request.study, list["RunSummary"]()
    assert request.sequential is not None

    def analyse(reached: Sequential, seeds: int) -> Sequence[Comparison] | None:
        part = _part(plan, reached, seeds)
        summaries.append(do(part))
        if summaries[-1].left:
            return None
        study = load_study(store, name)
        asked = [planned.fingerprint.value for planned in part.trials]
        own, metrics = (
            frame[frame["trial"].isin(asked)] for frame in (study.trials, study.metrics)
        )
        return comparisons(replace(study, trials=own, metrics=metrics))

    def say(text: str) -> None:
        with suppress(OSError):  # into a closed pipe: the run goes on
            print(text)

    reached = add_seeds(request.sequential, analyse, say)
    store.study(name, _with_seeds(request, reached, reached.taken).record())
    return summaries[-1]


def _report(store: Store, standing: Standing, home: Path) -> str | None:
    """Write the report, unless it is up to date; return what went wrong, or None.

    Raise nothing: the results are printed in any case.
    """
    from report import is_written, state_of

    study, folder = standing.study, home / "reports" / standing.study.name
    if is_written(folder, state_of(study.request, standing.trials, standing.measurements)):
        return None
    from report.write import write_report  # with matplotlib

    try:
        write_report(store, study.name, folder, home)
    except Exception as error:
        return str(classified(error, home))
    return None


def leave(place: Place, summary: RunSummary | ArrayEnd, wrong: Sequence[str] = ()) -> None:
    """End `run` or `tune`; warn of files that plugins read and that no fingerprint covers.

    Args:
        wrong: messages about what else went wrong.

    Raises:
        typer.Exit: with 130 if it was interrupted, with 1 if something failed or is left; in a
            worker of an array with `RESUMABLE` if it is to continue, else with `SOME_FAILED`.
    """
    from bench.execute import RESUMABLE, SIGNALS, SOME_FAILED, in_array, opened_uncovered

    if files := opened_uncovered(place.plugins, place.home):
        more = f", and {len(files) - MOST_FILES} more" if len(files) > MOST_FILES else ""
        print(
            "warning: plugins read files that are not part of a trial's fingerprint; results are "
            "reused even if these have changed: "
            f"{', '.join(map(str, files[:MOST_FILES]))}{more}",
            file=sys.stderr,
        )
    for message in wrong:
        print(f"error: {message}", file=sys.stderr)
    if summary.left:
        print(f"stopped early: {summary.left}; resume with the same command", file=sys.stderr)
    if summary.left in SIGNALS.values():
        raise typer.Exit(130)
    if in_array() and (summary.left or summary.interrupted):
        raise typer.Exit(RESUMABLE)
    if summary.failures or summary.left or wrong:
        raise typer.Exit(SOME_FAILED if in_array() else 1)
