"""The summary at the top of a report: what was compared, what is best, and how certain that is."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from report import undertrained
from report.cells import mean_cell
from report.comparisons import (
    METRIC,
    SUITE,
    Comparison,
    against_best,
    against_nulls,
    best,
    comparisons,
    higher_of_fewer,
    leader,
)
from report.conditions import Entry, System
from report.marks import older_sentence
from report.render import interval_text
from report.study import StudyData
from report.table import Column, Table
from report.topics import claims, control, cost, gates
from report.topics.differences import MANY, sentence_on_n
from report.topics.tuning import unequal
from results.conditions import Condition
from results.statistics.means import ALPHA
from results.text import counted

POINTS = Column("difference", "difference", scale=100)
SHARE = Column("top1", "top-1", scale=100, digits=1)


@dataclass(frozen=True)
class Finding:
    """The system with the highest mean accuracy under one condition, in sentences.

    Attributes:
        system: the best router, or the baseline or null that surpasses every router.
        lead: over how many others its lead is resolved; "" if nothing is tested.
        details: by how much it leads, and how certain that is.
        resolved: whether its lead is resolved over everything it was compared with.
        trials: fingerprints of the trials behind its accuracy.
    """

    condition: Condition
    system: System
    accuracy: str
    lead: str
    details: tuple[str, ...]
    resolved: bool
    trials: tuple[str, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """The lead and the details."""
        return tuple(filter(None, (self.lead, *self.details)))

    @property
    def headline(self) -> str:
        """The best system and its accuracy, in one sentence."""
        under = f" ({self.condition})" if self.condition else ""
        return f"Best{under}: {self.system}, {self.accuracy}."


def compared(study: StudyData) -> str:
    """Return what was compared, in one sentence."""
    trials = study.trials
    baselines = [system.label for system in study.systems if study.is_baseline(system)]
    what = counted(len(study.systems) - len(baselines), "router")
    if baselines:
        what += f" and {counted(len(baselines), 'baseline')} ({', '.join(baselines)})"
    if trials.empty:
        return f"{what}, as bare layers: nothing was trained."
    seeds = trials.groupby("entry", sort=False)["seed"].nunique()
    least, most = int(seeds.min()), int(seeds.max())
    seeds_each = counted(most, "seed") if least == most else f"{least} to {most} seeds"
    data = ", ".join(sorted(trials["data"].unique()))
    models = ", ".join(_model(study, name) for name in sorted(trials["model"].unique()))
    conditions = len(study.conditions)
    under = f", under {conditions} conditions" if conditions > 1 else ""
    statuses = Counter(trials["status"].str.replace("_", " "))
    outcomes = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    ended = f"{counted(len(trials), 'trial')}: {outcomes}"
    return f"{what} on {data} with {models}{under}; {seeds_each} each, {ended}."


def _model(study: StudyData, name: str) -> str:
    """Return the name of a model, with the options that change it."""
    asked = study.record.request.get("preset", {}).get("model", {})
    options = asked.get("options", {}) if asked.get("name") == name else {}
    changed = ", ".join(f"{key}={value}" for key, value in options.items())
    return f"{name} ({changed})" if changed else name


def findings(study: StudyData) -> list[Finding]:
    """Return the finding for each condition that has a finished trial."""
    to_best, to_nulls = against_best(study), against_nulls(study)
    winners = ((condition, best(study, condition)) for condition in study.conditions)
    return [
        _finding(study, condition, winner, to_best, to_nulls)
        for condition, winner in winners
        if winner is not None
    ]


def _finding(
    study: StudyData,
    condition: Condition,
    winner: Entry,
    to_best: list[Comparison],
    to_nulls: list[Comparison],
) -> Finding:
    first = leader(study, condition)
    assert first is not None
    beaten = first != winner
    own = [c for c in to_nulls + to_best if c.condition == condition and c.difference]
    others = [c for c in own if c.reference == first]
    behind = sorted(others, key=lambda c: c.theirs.mean() - c.ours.mean())
    over = [c for c in own if c.entry == winner and c.reference != first]
    lead = _lead(behind)
    if beaten:
        own_accuracy = _accuracy(study, winner)
        baseline = f"It is a baseline; the best router, {winner.system}, has {own_accuracy}."
        lead = f"{baseline} {lead}".strip()
    sentences = [
        f"{entry.system} has a higher mean, {_accuracy(study, entry)}, but it is not compared, "
        "since it has fewer seeds."
        for entry in higher_of_fewer(study, condition)
    ]
    sentences += [_gap("the next, ", c.turned()) + _seeds(study, c) for c in behind[:1]]
    trained = [c for c in over if undertrained.share_of_steps(study, c) is None]
    sentences += [_gap("", c, of=winner.label if beaten else "") for c in trained]
    sentences.append(sentence_on_n(behind) if behind else "")
    sentences.append(older_sentence(study, study.under(condition), [SUITE]))
    return Finding(
        condition=condition,
        system=first.system,
        accuracy=_accuracy(study, first),
        lead=lead,
        details=tuple(filter(None, sentences)),
        resolved=bool(behind) and all(c.resolved and _behind(c) for c in behind),
        trials=study.behind(first, study.final(METRIC, first).index),
    )


def _lead(behind: list[Comparison]) -> str:
    if not behind:
        return "There is nothing to compare it with."
    if all(c.adjusted is None for c in behind):
        return ""
    sure = sum(c.resolved and _behind(c) for c in behind)
    routers = counted(len(behind), "router")
    return f"Its lead is resolved over {sure} of {routers}."


def _gap(over: str, comparison: Comparison, of: str = "") -> str:
    """Return by how much the winner, or the router `of`, leads in a comparison."""
    difference = comparison.difference
    assert difference is not None
    ends = [end for end in (difference.low, difference.high) if end is not None]
    bounds = " to ".join(map(POINTS.number, ends))
    interval = f", simultaneous 95 % interval {bounds}" if bounds else ""
    verdict = "resolved" if comparison.resolved else comparison.verdict
    whose = f"Lead of {of} over" if of else "Lead over"
    lead = f"{whose} {over}{comparison.reference.system}: {POINTS.number(difference.mean)} points"
    return f"{lead}{interval} (n = {difference.n}): {verdict}."


def _seeds(study: StudyData, comparison: Comparison) -> str:
    """Return how many seeds would resolve an unresolved lead; "" if resolved, small or unknown."""
    needed = comparison.seeds_needed(study.planned_analyses)
    if comparison.resolved or comparison.is_small or needed is None:
        return ""
    seeds = f"about {needed} seeds" if needed <= MANY else f"more than {MANY:,} seeds"
    return f" A gap such as this one takes {seeds} to resolve (80 % power)."


def _behind(comparison: Comparison) -> bool:
    return comparison.difference is not None and comparison.difference.mean < 0


def _accuracy(study: StudyData, entry: Entry) -> str:
    cell = mean_cell(study, entry, study.final(METRIC, entry))
    assert cell.value is not None
    return f"{SHARE.number(cell.value)}{interval_text(SHARE, cell)} % (n = {cell.n})"


def remarks(study: StudyData) -> list[str]:
    """Return what a reader should know about the numbers, in reading order."""
    return [*caveats(study), *resolved_means(study)]


def caveats(study: StudyData) -> list[str]:
    """Return warnings, then the outcomes of the stopping rule, of the control and of the claims."""
    about = (unequal, gates.sentence, undertrained.sentence, cost.sentence)
    warned = filter(None, (sentence(study) for sentence in about))
    return [*warned, *_stopped(study), *control.sentences(study), *claims.sentences(study)]


def resolved_means(study: StudyData) -> list[str]:
    """Explain the word "resolved", once per report; empty if there is no test."""
    if all(c.adjusted is None for c in comparisons(study)):
        return []
    return [
        "Resolved: the two differ, with a certainty that holds for all comparisons of a "
        "condition at once; of studies whose systems are all equal, at most "
        f"{100 * ALPHA:g} % call any pair resolved. What decides is p (family), in the tables of "
        "paired differences. Intervals next to means are only a visual aid: since systems share "
        "their seeds, means whose intervals overlap may still differ."
    ]


def _stopped(study: StudyData) -> list[str]:
    """Describe the progress of a study that adds seeds until its differences are decided."""
    asked = study.sequential
    if not asked:
        return []
    planned = ", ".join(map(str, asked["seeds"]))
    if not asked["taken"]:
        return [
            f"Seeds are being added, with interim analyses planned at {planned}; the first is "
            "still to come."
        ]
    every = asked["decided"] == asked["compared"]
    number = "all" if every else f"{asked['decided']} of the"
    differences = counted(asked["compared"], "difference")
    return [
        f"Seeds were added, the same to every router, with interim analyses planned at {planned}. "
        f"The study stopped at {counted(asked['taken'], 'seed')} with {number} {differences} "
        f"decided, that is, resolved or smaller than {counted(asked['resolve'], 'point')}."
    ]


def texts(study: StudyData, tables: Iterable[Table]) -> dict[str, str]:
    """Return the texts with numbers outside of tables, by their place in the report."""
    best = {
        f"best {finding.condition}".strip(): " ".join(
            [finding.system.label, finding.accuracy, *finding.sentences]
        )
        for finding in findings(study)
    }
    captions = {f"caption of {table.name}": table.caption for table in tables}
    return {"summary": compared(study), **best, "remarks": " ".join(remarks(study)), **captions}


def changed(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return a message for each text whose numbers changed; its wording may change freely."""
    changes = []
    for place, text in then.items():
        printed, held = _numbers(text), _numbers(now.get(place, ""))
        if printed != held:
            gone = ", ".join(dict.fromkeys(number for number in printed if number not in held))
            changes.append(f"{place}: {gone or 'numbers'} in the report, not in the database now")
    return changes


def _numbers(text: str) -> list[str]:
    return re.findall(r"[−-]?\d+(?:[.,]\d+)*", text)
