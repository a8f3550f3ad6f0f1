"""Claims of papers about routers, and their verdicts by the study's runs."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from report.cells import listed, sentence_on_analyses
from report.claims import Claim, Side
from report.marks import older_trials_sentence
from report.study import StudyData
from report.table import OLDER, Cell, Column, Lacking, Row, captioned, number, text_columns, words
from report.topics.make import Contents, as_table
from report.verdicts import Judged, Untested, judged
from results.text import counted

COLUMNS = (
    *text_columns("id", "claim", "verdict"),
    Column("difference", "difference", digits=3),
    *text_columns(unit="in", seeds="seeds"),
    Column("p", "p", digits=3, p_value=True),
    Column("p_holm", "p (Holm)", digits=3, p_value=True),
    *text_columns(agreeing="conditions that agree", systems="of", scale="at this scale"),
)
TUNED, UNTUNED = "with tuned settings", "with untuned settings"
SIGNS = {"higher": "> 0", "lower": "< 0", "rises": "> 0", "falls": "< 0"}


@as_table("claims", "Claims, by these runs")
def table(study: StudyData) -> Contents:
    """Make a row for each claim that the runs can test."""
    claims = judged(study)
    tested = [each for each in claims if isinstance(each, Judged)]
    if not tested:
        raise Lacking(f"none of {len(claims)} claims is about these runs", fine=True)
    behind = {trial for each in tested for trial in each.evidence.trials}
    older = older_trials_sentence(study.trials[study.trials["trial"].isin(behind)])
    summary = (
        f"These runs can test {len(tested)} of {counted(len(claims), 'claim')}. Difference: as "
        "defined by the claim's test, paired by seed, ± half of its 95 % Student t interval. It "
        "holds at the scale of these runs, which is not that of the papers, and with their "
        "settings, tuned or untuned."
    )
    details = (
        "The test of each claim is in the table that says how each is tested. Difference: the "
        "mean over the conditions that have both sides, with its interval over the seeds that all "
        "of them have. p: two-sided paired t test (against the nearer end of a margin; "
        "if two differences decide, the larger p); Holm's correction over the claims tested. "
        "Supported or contradicted: adjusted p < 0.05, depending on where the difference lies; "
        "otherwise undecided, whatever was expected. Tuned: for each router on both sides.",
        sentence_on_analyses(study),
        f"{OLDER} {older}" if older else "",
    )
    return captioned(summary, *details), COLUMNS, [_row(study, each) for each in tested]


@as_table("claim_tests", "How each claim is tested")
def tests(study: StudyData) -> Contents:
    """Make a row for each claim, tested or not, with its source and what would decide it."""
    if study.trials.empty:
        raise Lacking("the study has no trials", fine=True)
    rows = []
    for each in judged(study):
        claim, why = each.claim, each.why if isinstance(each, Untested) else ""
        source = (claim.id, claim.source, claim.scale, _test(claim))
        decided = (claim.supported_if, claim.contradicted_if, claim.note, why)
        rows.append(Row(tuple(map(words, (*source, *decided)))))
    columns = text_columns(
        *("id", "source", "scale of the source", "test", "supported if", "contradicted if"),
        *("note", "not tested, since"),
    )
    caption = (
        "Each claim as its test reads it: a difference between two sides, each the mean over its "
        "systems, or the slope of a metric as a setting doubles."
    )
    return caption, columns, rows


def sentences(study: StudyData) -> list[str]:
    """Summarise the verdicts in one sentence; empty if these runs can test no claim."""
    claims = [each for each in judged(study) if isinstance(each, Judged)]
    if not claims:
        return []
    verdicts = Counter(each.verdict for each in claims)
    kinds = ("supported", "contradicted", "undecided")
    counts = ", ".join(f"{verdicts[kind]} {kind}" for kind in kinds)
    untuned = [each.claim.id for each in claims if _settings(study, each) == UNTUNED]
    about = ""
    if untuned:
        about = f" With untuned settings, which may decide it: {listed(untuned, table.name)}."
    return [f"Of {counted(len(claims), 'claim')} that these runs can test: {counts}.{about}"]


def _settings(study: StudyData, tested: Judged) -> str:
    """Return whether the settings of both sides were tuned, or "" if settings do not matter."""
    if not tested.claim.by_settings:
        return ""
    asked = study.record.request.get("tuned", {})
    every = all(system.router in asked for system in tested.evidence.systems)
    return TUNED if every else UNTUNED


def _row(study: StudyData, tested: Judged) -> Row:
    difference, evidence, claim = tested.difference, tested.evidence, tested.claim
    scale, unit = _unit(study, claim)
    trials, n = evidence.trials, difference.n
    low, high = (None if x is None else scale * x for x in (difference.low, difference.high))
    older = set(study.trials.loc[study.trials["older"], "trial"])
    agreeing = f"{tested.agreeing} of {len(evidence.by_condition)}"
    cells = (
        words(claim.id, *([OLDER] if older.intersection(trials) else [])),
        words(claim.claim),
        words(", ".join(filter(None, (tested.verdict, _settings(study, tested))))),
        Cell(scale * difference.mean, low, high, n=n, trials=trials),
        words(unit),
        words(str(n), trials=trials),
        number(tested.p, n, trials),
        number(tested.adjusted, n, trials),
        words(agreeing, trials=trials),
        words(", ".join(system.label for system in evidence.systems)),
        words(_scale(study, evidence.trials), trials=trials),
    )
    return Row(cells, n)


def _unit(study: StudyData, claim: Claim) -> tuple[float, str]:
    """Return the scale and the unit in which differences are shown."""
    units = study.metrics.loc[study.metrics["metric"] == claim.metric, "unit"].dropna()
    unit = str(units.iloc[-1]) if len(units) else ""
    scale, shown = (100.0, "points") if unit == "share" else (1.0, unit)
    return scale, f"{shown} a doubling".strip() if claim.over else shown


def _scale(study: StudyData, behind: Sequence[str]) -> str:
    """Return the scale of trials: `mnist; vit_tiny; 8, 32 experts; 4.0e12 FLOPs a run`."""
    trials = study.trials[study.trials["trial"].isin(behind)]
    with_experts = trials[[not study.is_baseline(system) for system in trials["system"]]]
    numbers = sorted(with_experts["num_experts"].dropna().unique())
    noun = "expert" if numbers == [1] else "experts"
    flops = pd.to_numeric(trials["flops"]).median()
    parts = [
        ", ".join(sorted(trials["data"].unique())),
        ", ".join(sorted(trials["model"].unique())),
        f"{', '.join(map(str, numbers))} {noun}" if numbers else "",
        "" if pd.isna(flops) else f"{flops:.1e} FLOPs a run".replace("e+", "e"),
    ]
    return "; ".join(filter(None, parts))


def _test(claim: Claim) -> str:
    """Return the test of a claim as a formula, such as `top1: soft_moe − mean(a, b) > 0`."""
    place = "".join(f" {value}" for value in claim.where.values())
    metric = f"{claim.metric}{place}"
    left = _side(claim.left)
    if claim.over:
        return f"{metric}: slope of {left} over log2 {claim.over} {SIGNS[claim.test]}"
    first = f"{left} − {_side(claim.right)}"
    if claim.test == "outweighs":
        second = f"{_side(claim.other_left)} − {_side(claim.other_right)}"
        return f"{metric}: {first} and {second} have one sign"
    if claim.margin:
        return f"{metric}: |{first}| < {claim.margin:g}"
    return f"{metric}: {first} {SIGNS[claim.test]}"


def _side(side: Side | None) -> str:
    assert side is not None
    named = side.routers[0] if len(side.routers) == 1 else f"mean({', '.join(side.routers)})"
    experts = f" + {' or '.join(side.experts)}" if side.experts else ""
    apart = {path: "none" if v is None else v for path, v in side.settings.items()} | side.where
    settings = ", ".join(f"{path}={value}" for path, value in apart.items())
    return f"{named}{experts} ({settings})" if settings else f"{named}{experts}"
