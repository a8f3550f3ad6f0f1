"""The tables, figures and sections of a report, in reading order."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from report.study import StudyData
from report.style import Drawing
from report.table import Absent, Table, said_once
from report.topics import (
    accuracy,
    affinities,
    budgets,
    claims,
    compute,
    control,
    cost,
    differences,
    editing,
    gates,
    generic,
    kinds,
    loads,
    pareto,
    pruning,
    ranks,
    routing,
    scaling,
    specialization,
    stability,
    transfer,
    trials,
    tuning,
    wins,
)
from report.topics.make import FigureMaker, Section, TableMaker

SECTIONS = (
    Section(
        "accuracy",
        "Accuracy",
        (
            accuracy.table,
            accuracy.draw,
            accuracy.draw_training,
            affinities.draw,
            transfer.draw,
            pareto.draw,
            compute.rankings_table,
            budgets.draw,
        ),
        (compute.order_changes_table,),
    ),
    Section(
        "differences",
        "Differences",
        (
            differences.to_nulls,
            differences.to_best,
            wins.draw,
            differences.seeds_table,
            ranks.bootstrap_table,
            ranks.draw_intervals,
            ranks.table,
            ranks.draw,
            control.table,
        ),
    ),
    Section("scaling", "Scaling", (scaling.draw, scaling.table)),
    Section("tuning", "Tuning", (tuning.table, tuning.draw), (tuning.tried_table,)),
    Section("claims", "Claims", (claims.table,), (claims.tests,)),
    Section(
        "cost", "What routing costs", (compute.table, cost.draw, cost.draw_scaling), (cost.table,)
    ),
    Section(
        "routing",
        "How they routed",
        (
            routing.balance_table,
            loads.draw_load,
            loads.draw_over_ideal,
            routing.entropy_table,
            gates.table,
            routing.draw_entropy,
            specialization.draw_served,
            kinds.table,
            kinds.draw,
        ),
        (stability.table, routing.layer_table, routing.best_table),
    ),
    Section(
        "experts",
        "What the experts are for",
        (specialization.table, specialization.draw_change, specialization.draw_images),
    ),
    Section("fairness", "Fairness", (editing.table, editing.draw)),
    Section("pruning", "Pruning", (pruning.draw, pruning.table)),
)
Part = Table | Drawing | Absent
FAILURES = Section("failures", "Failures", (trials.failures,), (trials.trials, trials.layers))


def sections(study: StudyData) -> list[Section]:
    """Return the sections of a study's page, with generic ones for suites without their own."""
    return [*SECTIONS, *generic.sections(study), FAILURES]


def make_tables(study: StudyData) -> list[Table | Absent]:
    """Return every table, or what it lacks."""
    return [maker(study) for maker in _makers(study) if isinstance(maker, TableMaker)]


def draw_figures(study: StudyData) -> Iterator[Drawing | Absent]:
    """Yield every figure, or what it lacks.

    A single warning names the characters that no installed font has.
    """
    lacking: set[str] = set()
    for maker in _makers(study):
        if isinstance(maker, FigureMaker):
            for part in maker(study):
                lacking |= part.lacking if isinstance(part, Drawing) else set()
                yield part
    if lacking:
        warnings.warn(
            f"no installed font has {' '.join(sorted(lacking))}: the figures show numbers of "
            "classes, or codes of characters, instead; a Noto font for that script would help",
            stacklevel=2,
        )


def _makers(study: StudyData) -> Iterator[TableMaker | FigureMaker]:
    return chain.from_iterable((*each.shown, *each.folded) for each in sections(study))


def chosen(
    section: Section, tables: Sequence[Table | Absent], figures: Sequence[Drawing | Absent]
) -> tuple[list[Part], list[Part]]:
    """Return the shown and the folded parts of a section, with those made for each condition.

    Missing parts are merged by reason, and never folded away.
    """

    def made_by(makers: Iterable[TableMaker | FigureMaker]) -> list[Part]:
        made = list[Part]()
        for maker in makers:
            own: Sequence[Part] = tables if isinstance(maker, TableMaker) else figures
            made += [part for part in own if part.name.partition("--")[0] == maker.name]
        return made

    shown, folded = made_by(section.shown), made_by(section.folded)
    absent = said_once(part for part in (*shown, *folded) if isinstance(part, Absent))
    there = [part for part in shown if not isinstance(part, Absent)]
    return [*there, *absent], [part for part in folded if not isinstance(part, Absent)]
