"""`run` and `plan`: the same request, done or told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.place import Place, command

if TYPE_CHECKING:
    from bench.datasets import Datasets
    from bench.plan import Plan, Request

Suites = Annotated[
    list[str] | None,
    typer.Argument(metavar="SUITE", help="What measures; the preset's suites where none."),
]
PresetName = Annotated[
    str, typer.Option("--preset", metavar="NAME", help="By name, or a YAML file of your own.")
]
Routers = Annotated[
    str | None, typer.Option("--routers", metavar="A,B,…", help="Routers by name, or all.")
]
Seeds = Annotated[
    int | None, typer.Option("--seeds", min=1, metavar="N", help="Trainings of each router.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="One setting, as train.lr=1e-3; repeatable."),
]
Sweep = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep", metavar="PATH=A,B", help="Several values of a setting; all combined; repeatable."
    ),
]
DataDir = Annotated[
    str | None,
    typer.Option(
        "--data-dir",
        metavar="FOLDER",
        help="Where the data's files lie already; the same as --set data.data_dir=FOLDER.",
    ),
]
Study = Annotated[
    str | None,
    typer.Option(
        "--study",
        metavar="NAME",
        help="Keep the results under this name.",
        show_default="the preset's",
    ),
]
NoReport = Annotated[bool, typer.Option("--no-report", help="Write no report at the end.")]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    command(app)(run)
    command(app)(plan)


def run(
    place: Place,
    suites: Suites = None,
    preset: PresetName = "tiny",
    routers: Routers = None,
    seeds: Seeds = None,
    set_: Set = None,
    sweep: Sweep = None,
    data_dir: DataDir = None,
    study: Study = None,
    no_report: NoReport = False,
) -> None:
    """Train and measure what is not done yet, then write the report.

    Trials whose description, data and source have not changed are reused. A trial that fails is
    written down with its traceback and the others go on; the exit status is then 1.

    \b
    Examples:
      python bench.py run --preset tiny
      python bench.py run balance entropy --preset smoke
      python bench.py run --routers soft_moe,dense --seeds 5 --set train.lr=1e-3
      python bench.py run --sweep router.affinity=linear,cosine --study affinities
    """
    from bench.cli.live import Display
    from bench.cli.report import write
    from bench.cli.summary import print_failures, print_summary
    from bench.run import run as run_plan

    request = _request(place, suites, preset, routers, seeds, set_, sweep, data_dir, study)
    resolved, datasets = _plan(request)
    with place.store(create=True) as store, Display() as display:
        tally = run_plan(resolved, store, place.home, datasets, display)
        display.close()
        print_summary(store, request.study, tally)
        if not no_report:
            write(store, request.study, place.home / "reports" / request.study)
        print_failures(tally)
    if tally.failures:
        raise typer.Exit(1)


def plan(
    place: Place,
    suites: Suites = None,
    preset: PresetName = "tiny",
    routers: Routers = None,
    seeds: Seeds = None,
    set_: Set = None,
    sweep: Sweep = None,
    data_dir: DataDir = None,
    study: Study = None,
) -> None:
    """Show what `run` would do, and what it would take.

    Trials, parameters, FLOPs, memory and disk; what is reused, and why not. Nothing is trained.
    It works where the preset cannot run: without its data, and without a device that holds its
    models.

    \b
    Examples:
      python bench.py plan --preset tiny
      python bench.py plan --preset study --routers soft_moe,dense --seeds 1
    """
    from bench.cli.planned import print_plan

    print_plan(_request(place, suites, preset, routers, seeds, set_, sweep, data_dir, study), place)


def _request(
    place: Place,
    suites: list[str] | None,
    preset: str,
    routers: str | None,
    seeds: int | None,
    settings: list[str] | None,
    sweep: list[str] | None,
    data_dir: str | None,
    study: str | None,
) -> Request:
    place.load()
    from bench.overrides import parse_set, parse_sweep
    from bench.plan import make_request
    from bench.presets import load_preset

    found = [f"data.data_dir={data_dir}"] if data_dir else []
    return make_request(
        load_preset(preset),
        study=study,
        suites=suites or (),
        routers=[name.strip() for name in (routers or "").split(",") if name.strip()],
        seeds=seeds,
        settings=dict(parse_set(text) for text in [*found, *(settings or ())]),
        sweep=dict(parse_sweep(text) for text in sweep or ()),
    )


def _plan(request: Request) -> tuple[Plan, Datasets]:
    from bench.datasets import Datasets
    from bench.plan import make_plan

    datasets = Datasets()
    return make_plan(request, datasets), datasets
