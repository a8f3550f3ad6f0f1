"""How similarly two seeds route the same tokens, with their experts matched one to one.

What suite stability measured on single trainings is shown like the numbers of any suite.
"""

from itertools import combinations
from statistics import fmean

import numpy as np

from report.cells import LEAD, measured_by, metric_row, require_asked, stands_under
from report.conditions import Entry
from report.study import StudyData
from report.table import NOT_APPLICABLE, Cell, Column, Lacking, captioned, words
from report.topics.make import Contents, as_table
from results.groups import grouped
from results.statistics.agreement import PERMUTATIONS, agreement

COLUMNS = (
    Column("adjusted", "adjusted", digits=3),
    Column("lowest", "lowest pair", digits=3),
    Column("highest", "highest pair", digits=3),
    Column("matched", "matched", "%", scale=100, digits=1),
    Column("chance", "by chance", "%", scale=100, digits=1),
    Column("rand", "first choices", digits=3),
    Column("pairs", "pairs", digits=0),
)
CAPTION = captioned(
    "Tokens sampled from the test split, at the end of training; mean over the MoE layers and over "
    "all pairs of seeds. Adjusted agreement is 0 by chance and 1 where two routings are equal. "
    "Pairs share runs, so no interval is given.",
    "Matched: overlap of a token's combine shares, Σ min(p, q), once the experts of the two seeds "
    "are matched one to one to make it as large as possible (linear assignment). By "
    f"chance: the same after permuting the tokens of one, mean of {PERMUTATIONS}. Adjusted: "
    "(matched − chance) / (1 − chance); lowest and highest: of any pair. First choices: their "
    "adjusted Rand index, which needs no matching.",
)


@as_table("seed_agreement", "Agreement of routings between seeds", "stability")
def table(study: StudyData) -> Contents:
    """Make a row for each router and condition with several seeds."""
    require_asked(study, "stability")
    under, rows = stands_under(study), []
    for entry in measured_by(study, "stability"):
        cells = _cells(study, entry)
        if cells:
            rows.append(metric_row(study, entry, cells, under=under[entry]))
    if not rows:
        raise Lacking("two seeds whose routings can be compared: ask for --seeds 2 or more")
    return CAPTION, (*LEAD, *COLUMNS), rows


def _cells(study: StudyData, entry: Entry) -> list[Cell]:
    """Compare all pairs of seeds; empty if there is one seed or no sample was kept."""
    from sklearn.metrics import adjusted_rand_score  # slow to import

    shares, first = (_by_seed(study, entry, f"sampled_{name}") for name in ("shares", "first"))
    pairs = [
        (one, other)
        for one, other in combinations(sorted(shares), 2)
        if [each.shape for each in shares[one]] == [each.shape for each in shares[other]]
    ]
    if not pairs:
        return []
    seeds = sorted({seed for pair in pairs for seed in pair})
    trials = study.behind(entry, seeds)

    def cell(values: list[float], of: float | None = None) -> Cell:
        if not values:
            return words(NOT_APPLICABLE)
        return Cell(fmean(values) if of is None else of, n=len(seeds), trials=trials)

    of_pairs = [
        [agreement(*layers) for layers in zip(shares[one], shares[other], strict=True)]
        for one, other in pairs
    ]
    adjusted = [
        fmean(values)
        for layers in of_pairs
        if (values := [layer.adjusted for layer in layers if layer.adjusted is not None])
    ]
    every = [layer for layers in of_pairs for layer in layers]
    rand = [
        fmean(adjusted_rand_score(*layers) for layers in zip(first[one], first[other], strict=True))
        for one, other in pairs
    ]
    return [
        cell(adjusted),
        cell(adjusted, min(adjusted, default=None)),
        cell(adjusted, max(adjusted, default=None)),
        cell([layer.matched for layer in every]),
        cell([layer.chance for layer in every]),
        cell(rand),
        cell(rand, len(pairs)),
    ]


def _by_seed(study: StudyData, entry: Entry, name: str) -> dict[int, list[np.ndarray]]:
    """Return the arrays of each seed's MoE layers, in network order."""
    records = study.array(name, entry)
    return grouped((each.seed, each.values) for each in records if each.seed is not None)
