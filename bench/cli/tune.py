"""`tune`: search for each router's best settings, with the same number of trainings for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bench.cli.context import Place
from bench.cli.options import DataDir, PresetName, Routers, Set, WorkOptions, names
from bench.cli.run import leave

if TYPE_CHECKING:
    from results import Store

Trials = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Number of settings to try for each router, each on one seed.",
        show_default="the preset's",
    ),
]
Seeds = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Number of seeds that the best settings are trained on.",
        show_default="the preset's",
    ),
]
PrunerName = Annotated[
    Literal["median", "hyperband", "none"] | None,
    typer.Option(help="The rule that ends hopeless settings early.", show_default="the preset's"),
]
Seed = Annotated[
    int,
    # The trainings of one setting have seeds a million apart.
    typer.Option(min=0, max=999_999, metavar="N", help="Seed for all draws and trainings."),
]
Study = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Keep the tuning under this name.",
        show_default="PRESET-tuning",
    ),
]


def tune(
    place: Place,
    preset: PresetName = "tiny",
    routers: Routers = None,
    trials: Trials = None,
    seeds: Seeds = None,
    pruner: PrunerName = None,
    seed: Seed = 0,
    set_: Set = None,
    data_dir: DataDir = None,
    study: Study = None,
    *,
    work: WorkOptions,
) -> None:
    """Find the best settings of each router, with the same number of trainings for each.

    Optuna searches the preset's ranges, and those of the router's and its affinity's own
    hyper-parameters that declare a range and that the preset leaves open, at the first value of
    each sweep. Accuracy on the validation split decides: the test split is not read. Every setting
    trains on one seed, the best third of them on two more seeds, the best third of those on more
    again, up to --seeds; the mean over the seeds decides. A router's draws do not depend on the
    other routers. The same command resumes a tuning; more --trials or --seeds extend it.
    `run --tuned` uses the settings that were found.

    \b
    Examples:
      python bench.py tune --preset tiny --trials 6 --seeds 3
      python bench.py tune --preset study --routers soft_moe,dense --pruner hyperband
    """
    place.load(watch=True)
    from bench.cli.array import ArrayEnd, asked_array, work_by_array
    from bench.cli.live import Display
    from bench.config import load_preset, settings_of
    from bench.data import Datasets
    from bench.execute import RunSummary
    from bench.plan import checked_name, make_request
    from bench.tune import Tuning, prepare_tuning, tuning_of
    from bench.tune import tune as do

    settings = settings_of(set_ or (), data_dir)
    loaded = load_preset(preset)
    request = make_request(loaded, routers=names(routers), settings=settings)
    changed = {"trials": trials, "seeds": seeds, "pruner": pruner}
    tuned = request.preset.tune.model_copy(
        update={name: value for name, value in changed.items() if value is not None}
    )
    name = checked_name(study or tuning_of(loaded.name))
    searched = request.preset.model_copy(update={"tune": tuned})
    tuning = Tuning(name, searched, seed, frozenset(settings))
    cluster, options = asked_array(work, tuning.preset), work.run_options(place.plugins)
    with place.store(create=True) as store:

        def prepare(gpus: int) -> int:
            return prepare_tuning(tuning, store, place.home, Datasets(), options, gpus)

        summary: RunSummary | ArrayEnd
        if cluster is not None:
            summary = work_by_array(place, tuning.study, store, work, cluster, options, prepare)
        else:
            with Display(store, tuning.study) as display:
                summary = do(tuning, store, place.home, Datasets(), display, options)
        print_best(store, tuning.study)
    leave(place, summary)


def print_best(store: Store, study: str) -> None:
    """Print the result of each router's search: its counts and the best settings."""
    from bench.cli.display import print_table, table
    from bench.tune import search_results
    from report.topics.tuning import settings_label

    numbers = ("settings", "trainings", "pruned", "failed")
    made = table("router", *numbers, "best top-1 %", "seeds", "with", right=" ".join(numbers))
    for router, each in search_results(store, study).items():
        counts = (each.trials, each.count_trainings, each.pruned, each.failed)
        best = "" if each.best is None else f"{100 * each.best:.2f}"
        label = settings_label(each.settings)
        made.add_row(router, *map(str, counts), best, str(each.seeds), label)
    print(f"\nTuning {study}: the best mean accuracy on the validation split\n")
    print_table(made)
