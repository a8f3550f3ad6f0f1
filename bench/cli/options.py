"""Arguments and options of `run`, `plan` and `tune`, with their help texts."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from bench.execute import RunOptions
    from bench.plan import Retry as RetryName

PresetName = Annotated[
    str,
    typer.Option("--preset", metavar="NAME", help="A preset's name, or a YAML file of your own."),
]
Routers = Annotated[str | None, typer.Option(metavar="A,B,…", help="Router names, or all.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="A setting, e.g. train.lr=1e-3; repeatable."),
]
DataDir = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder that already holds the data's files; same as --set data.data_dir=FOLDER.",
    ),
]
Retry = Annotated[
    Literal["failed", "timed_out", "all", "noisy"] | None,
    typer.Option(
        help="Train again what gave no result; noisy: repeat the timings that other load "
        "disturbed (¶).",
        show_default="none",
    ),
]
NoReport = Annotated[bool, typer.Option("--no-report", help="Do not write the report at the end.")]


@dataclass(frozen=True)
class RequestOptions:
    """The options that choose what to train and measure."""

    suites: Annotated[
        list[str] | None,
        typer.Argument(metavar="SUITE", help="Suites to measure with; if none, the preset's."),
    ] = None
    preset: PresetName = "tiny"
    routers: Routers = None
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Seeds for each router; auto adds seeds after interim analyses, see above.",
        ),
    ] = None
    resolve: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            min=0,
            help="With --seeds auto: the smallest difference in top-1 that matters.",
            show_default="0.5",
        ),
    ] = None
    max_seeds: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="With --seeds auto: at most N seeds.", show_default="20"
        ),
    ] = None
    aa: Annotated[
        bool,
        typer.Option(
            "--aa",
            help="Train each router a second time, as its own control: with the same data order, "
            "but different MoE weights and noise. The report says how often chance alone gives a "
            "false alarm.",
        ),
    ] = False
    tuned: Annotated[
        bool,
        typer.Option(
            "--tuned",
            help="Train with the best settings that `tune` found for each router of the preset.",
        ),
    ] = False
    tuning: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Train with the best settings of this tuning."),
    ] = None
    set_: Set = None
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH=A,B", help="Values of a setting to sweep; repeatable, all combined."
        ),
    ] = None
    data_dir: DataDir = None
    study: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Store the results under this name.", show_default="the preset's"
        ),
    ] = None


@dataclass(frozen=True)
class WorkerOptions:
    """The options for the number of workers and their devices."""

    jobs: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Number of worker processes; 0 works in this process, for a debugger.",
            show_default="one per GPU; without a GPU, one per core",
        ),
    ] = None
    devices: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="GPUs to use, such as 0,2; or cpu.", show_default="all"),
    ] = None


@dataclass(frozen=True)
class WorkOptions(WorkerOptions):
    """The options for how workers do their jobs."""

    timeout: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="End a trial that takes longer, such as 90s, 30m or 2h.",
            show_default="none",
        ),
    ] = None
    save_every: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Time between checkpoints of a training."),
    ] = 60
    executor: Annotated[
        Literal["slurm", "local"] | None,
        typer.Option(
            help="Submit an array of workers with submitit: to Slurm, or to this machine to try "
            "it out.",
            show_default="worker processes of this command",
        ),
    ] = None
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Workers in the array.", show_default="4")
    ] = None
    cluster: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML file with the resources of each worker; it overrides the preset's cluster "
            "section.",
        ),
    ] = None

    def run_options(self, plugins: tuple[Path, ...], retry: RetryName = None) -> RunOptions:
        """Return the options of a run, with the command that resumes it."""
        from bench.execute import RunOptions, array_began, gpus, in_array

        jobs = self.jobs
        if jobs is None and in_array() and not gpus():
            jobs = 1  # the other cores belong to other workers
        return RunOptions(
            jobs=jobs,
            devices=tuple(names(self.devices)),
            timeout=None if self.timeout is None else seconds_of(self.timeout),
            save_every=self.save_every,
            retry=retry,
            plugins=plugins,
            prepared=in_array(),
            newest=array_began(),
            command=f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(['python', *sys.argv])}",
        )


AUTO = "auto"


def names(text: str | None) -> list[str]:
    """Return the names in `a,b, c`; an empty list if there is no text.

    Raises:
        typer.BadParameter: a name is empty, or appears twice.
    """
    if text is None:
        return []
    listed = [name.strip() for name in text.split(",")]
    for name in listed:
        if not name:
            raise typer.BadParameter(f"{text!r} has an empty name; write names as a,b,c")
        if listed.count(name) > 1:
            raise typer.BadParameter(f"{text!r} has {name!r} twice")
    return listed


def seeds_of(text: str | None) -> int | None:
    """Return the number of seeds; None for `auto` or if there is no text.

    Raises:
        typer.BadParameter: the text is neither a positive number nor `auto`.
    """
    if text is None or text == AUTO:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"--seeds {text}: give a number of at least 1, or auto")
    return int(text)


def seconds_of(text: str) -> float:
    """Return the seconds in a time such as `90`, `90s`, `30m`, `2.5h` or `1d`.

    Raises:
        typer.BadParameter: the text is not a time, or the time is not positive.
    """
    from bench.config import seconds_in

    try:
        return seconds_in(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
