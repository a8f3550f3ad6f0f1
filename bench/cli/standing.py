"""How a study stands, from the database alone: of a run that goes on, that ended, or that died."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pandas as pd

from bench.cli.board import UNDER_WAY, Board, Worker, worker_lines
from bench.cli.words import clock, duration
from bench.eta import Job, Pace
from results import Store
from results.frames import measurements_frame, trials_frame
from results.liveness import alive
from results.records import ClaimRecord, RunRecord


@dataclass(frozen=True)
class Standing:
    """A study as the database has it.

    Attributes:
        trials: see `trials_frame`.
        measurements: see `measurements_frame`.
        layers: bare layers of the study.
        runs: all there were, the oldest first.
        claims: what its living runs work on.
        now: when this was read.
    """

    study: str
    trials: pd.DataFrame
    measurements: pd.DataFrame
    layers: int
    runs: tuple[RunRecord, ...]
    claims: tuple[ClaimRecord, ...]
    now: datetime

    @property
    def living(self) -> tuple[RunRecord, ...]:
        """The runs that go on."""
        return tuple(run for run in self.runs if alive(run))

    @property
    def open(self) -> pd.DataFrame:
        """Trials without a result that nobody works on."""
        return self.trials[self.trials["status"].isin(("waiting", "interrupted"))]


def read_standing(store: Store, study: str) -> Standing:
    """All that is shown of a study."""
    record = store.find_study(study)
    return Standing(
        study,
        trials_frame(store, study),
        measurements_frame(store, study),
        record.layers,
        tuple(store.runs(study)),
        _living_claims(store, study),
        datetime.now().astimezone(),
    )


def with_progress(standing: Standing, store: Store) -> Standing:
    """The same with what its runs do now: cheap, where reading all of a large study is not."""
    return replace(
        standing,
        runs=tuple(store.runs(standing.study)),
        claims=_living_claims(store, standing.study),
        now=datetime.now().astimezone(),
    )


def run_lines(standing: Standing) -> list[str]:
    """Whether a run goes on, ended or died, and what takes it up again."""
    now = standing.now
    if standing.living:
        return [
            f"running since {clock(run.started_at, now)} "
            f"({duration((now - run.started_at).total_seconds())}): process {run.pid} on "
            f"{run.node}, {run.jobs} worker{'s' * (run.jobs != 1)}"
            for run in standing.living
        ]
    if not standing.runs:
        return []
    run = standing.runs[-1]
    end = run.finished_at or run.heartbeat_at
    took = f"{clock(end, now)} after {duration((end - run.started_at).total_seconds())}"
    again = f"this takes it up again: {run.command}"
    if run.finished_at is None:
        return [f"died: process {run.pid} on {run.node}, last heard of {took}", again]
    if left := len(standing.open):
        return [f"stopped {took} with {left} trial{'s' * (left != 1)} left", again]
    return [f"finished {took}"]


def head_lines(standing: Standing, board: Board) -> list[str]:
    """The study, its runs, counts and pace as lines of text."""
    told = (board.told(), board.pace(standing.now))
    return [f"Study {standing.study}", *run_lines(standing), *filter(None, told)]


def text_of(standing: Standing) -> str:
    """The same with a line for each worker, 80 columns wide."""
    board = board_of(standing)
    workers = worker_lines(board.workers, 80)
    return "\n".join([*head_lines(standing, board), *([""] if workers else []), *workers])


def board_of(standing: Standing) -> Board:
    """The same board as the run itself shows."""
    pace, names = _pace(standing), _names(standing.trials)
    under_way = [(claim, _job(claim, names)) for claim in standing.claims]
    running = [job for claim, job in under_way if claim.trial]
    claimed = [claim.fingerprint for claim in standing.claims]
    open_ = standing.open[~standing.open["trial"].isin(claimed)]
    bare = standing.measurements[standing.measurements["seed"].isna()]
    measured = min(bare["trial"].nunique(), standing.layers)
    left = pace.left(
        running,
        [names[trial] for trial in open_["trial"]],
        [""] * (standing.layers - measured),
        sum(run.jobs for run in standing.living),
    )
    counts = standing.trials["status"].value_counts()
    ended = standing.trials[~standing.trials["status"].isin(UNDER_WAY)]
    # A trial that is measured is done already.
    shares = sum(job.trained for job in running if job.trained < 1)
    return Board(
        {str(status): int(number) for status, number in counts.items()},
        len(ended) + shares,
        (measured, standing.layers),
        _rate(standing, ended, shares),
        left if standing.living else None,
        tuple(_worker(claim, job, pace, names) for claim, job in under_way),
    )


def _names(trials: pd.DataFrame) -> dict[str, str]:
    """Router and condition by fingerprint."""
    columns = trials[["trial", "router", "condition"]]
    return {
        trial: f"{router} {condition}".strip()
        for trial, router, condition in columns.itertuples(index=False)
    }


def _begun(standing: Standing) -> datetime | None:
    """When what goes on began; where nothing does, when the last run did."""
    runs = standing.living or standing.runs[-1:]
    return min((run.started_at for run in runs), default=None)


def _pace(standing: Standing) -> Pace:
    """Learnt from this run, or from all before it where it has ended nothing yet."""
    names, begun = _names(standing.trials), _begun(standing)
    done = standing.trials[standing.trials["status"] == "done"]
    lately = done[done["finished_at"] >= begun] if begun else done
    pace = Pace()
    learnt_from = (lately if len(lately) else done)[["trial", "seconds"]]
    for trial, seconds in learnt_from.itertuples(index=False):
        pace.training.add(names[trial], seconds)
    spent: dict[tuple[str, str], float] = defaultdict(float)
    columns = standing.measurements[["trial", "router", "seconds"]]
    for trial, router, seconds in columns[columns["seconds"].notna()].itertuples(index=False):
        spent[trial, router] += seconds
    for (trial, router), seconds in spent.items():
        # What is no trial of the study is a bare layer.
        learnt = pace.measuring if trial in names else pace.layers
        learnt.add(names.get(trial, router), seconds)
    return pace


def _job(claim: ClaimRecord, names: dict[str, str]) -> Job:
    kind, told = names.get(claim.fingerprint, claim.router), claim.progress
    if told.get("doing", "training") != "training":
        return Job(kind, trained=1.0)
    return Job(kind, told.get("step", 0) / max(told.get("steps", 0), 1), told.get("seconds", 0.0))


def _worker(claim: ClaimRecord, job: Job, pace: Pace, names: dict[str, str]) -> Worker:
    told = claim.progress
    return Worker(
        names.get(claim.fingerprint, claim.router),
        claim.seed,
        told.get("doing", "starting"),
        told.get("step", 0),
        told.get("steps", 0),
        told.get("loss"),
        told.get("accuracy"),
        (pace.of(job) or None) if claim.trial else None,
    )


def _rate(standing: Standing, ended: pd.DataFrame, shares: float) -> float | None:
    """Trials an hour since the run began, counting of those under way what is done."""
    begun = _begun(standing)
    if begun is None:
        return None
    last = standing.runs[-1]
    end = standing.now if standing.living else last.finished_at or last.heartbeat_at
    done = (ended["finished_at"] >= begun).sum() + shares
    hours = (end - begun) / timedelta(hours=1)
    return float(done / hours) if done and hours > 0 else None


def _living_claims(store: Store, study: str) -> tuple[ClaimRecord, ...]:
    return tuple(claim for claim in store.claims(study) if alive(claim.run))
