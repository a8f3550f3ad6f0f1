"""`run` and `plan`: the same request, done or shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bench.cli.context import Place, command
from bench.cli.faults import classified
from bench.cli.options import NoReport, RequestOptions, Retry, WorkerOptions, WorkOptions, names
from bench.cli.run_options import leave, run_options, warn_of_files

if TYPE_CHECKING:
    from bench.cli.standing import Standing
    from results import Store


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    command(app)(run)
    command(app)(plan)


def run(
    place: Place,
    request: RequestOptions,
    work: WorkOptions,
    retry: Retry = None,
    no_report: NoReport = False,
) -> None:
    """Train and measure what is not done yet, then write the report.

    Trials whose description, data and source have not changed are reused; a training that was
    interrupted goes on from its last checkpoint. A trial that fails is written down with its
    traceback and its log, and the others go on; the exit status is then 1. Ctrl-C saves and
    leaves, and the same command goes on; Ctrl-C again leaves at once.

    --seeds auto adds seeds, the same to every router, until each difference in test accuracy, to a
    null or between two routers, is decided: resolved, or smaller than --resolve points. Interim
    analyses take place at the preset's number of seeds (3 at least), at twice as many, and so on
    to --max-seeds. Resolved: the p-value times the number of planned analyses (Bonferroni),
    corrected by Holm over the differences of its condition, is below 0.05; smaller: its interval
    at 1 - 0.05 / analyses lies within. So chance alone finds a difference under a condition in at
    most 5 % of all studies, whichever analysis was the last.

    \b
    Examples:
      python bench.py run --preset tiny
      python bench.py run balance entropy --preset smoke
      python bench.py run --routers soft_moe,dense --seeds 5 --set train.lr=1e-3
      python bench.py run --routers soft_moe,dense --seeds auto --resolve 1
      python bench.py run --sweep router.affinity=linear,cosine --study affinities
      python bench.py run --preset study --devices 0,1 --timeout 9h --retry failed
    """
    from bench.cli.digest import digest_of
    from bench.cli.interim import adding_seeds
    from bench.cli.live import Display
    from bench.cli.request import asked_for
    from bench.cli.standing import read_standing
    from bench.cli.summary import main_metrics, print_standings
    from bench.data import Datasets
    from bench.execute import RunSummary, run_plan
    from bench.plan import Plan, make_plan
    from results import StoreError
    from routers.errors import BenchError

    asked = asked_for(place, request)
    options, datasets = run_options(place, work, retry), Datasets()
    planned = make_plan(asked, datasets)
    with place.store(create=True) as store:

        def do(part: Plan) -> RunSummary:
            with Display(store, asked.study) as display:
                return run_plan(part, store, place.home, datasets, display, options)

        try:
            summary = do(planned) if asked.sequential is None else adding_seeds(planned, store, do)
        except StoreError as error:  # no mistake in the request
            raise BenchError(f"{error}; the same command goes on") from error
        standing = read_standing(store, asked.study)
        metrics = main_metrics(store, asked.study, history=True)
        # What is written comes before what is shown, which may fail, as into a closed pipe.
        wrong = None if no_report or summary.left else _report(store, standing, place.home)
        digest = digest_of(standing, metrics, place.home)
    print_standings(asked.study, metrics[metrics["current"]], asked.suites)
    print(f"\n{digest}")
    warn_of_files(place)
    leave(summary, [f"the report could not be written: {wrong}"] if wrong else [])


def plan(place: Place, request: RequestOptions, workers: WorkerOptions) -> None:
    """Show what `run` would do, what it would take and when it would be done.

    Trials, parameters, FLOPs, memory and disk; what is reused, and why not. Nothing is trained or
    measured for it. The finishing time is the FLOPs of each training over the FLOP rate that
    earlier trials reached on this machine, and what each suite took; it is not known before the
    first trial has run here. Without the preset's data there is no finishing time either.

    \b
    Examples:
      python bench.py plan --preset tiny
      python bench.py plan --preset study --routers soft_moe,dense --seeds 1
    """
    from bench.cli.plan import print_plan
    from bench.cli.request import asked_for

    print_plan(asked_for(place, request), place, workers.jobs, names(workers.devices))


def _report(store: Store, standing: Standing, home: Path) -> str | None:
    """Write the report, unless it shows just this; return what went wrong.

    Nothing is raised: the results are printed all the same.
    """
    from report.state import is_written, state_of

    folder = home / "reports" / standing.study.name
    if is_written(folder, state_of(standing.study.request, standing.trials, standing.measurements)):
        return None
    from report import write_report

    try:
        write_report(store, standing.study.name, folder, home)
    except Exception as error:
        return str(classified(error, home))
    return None
