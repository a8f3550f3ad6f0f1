"""How a study stands, from the database alone: of a run that goes on, that ended, or that died."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pandas as pd
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bench.cli.board import (
    AROUND_WORKERS,
    UNDER_WAY,
    Board,
    Worker,
    make_board,
    show_board,
    worker_lines,
)
from bench.cli.display import clock, duration
from results import Store
from results.conditions import router_label
from results.forecasts import Kind, Seen, Work
from results.frames import measurements_frame, trials_frame
from results.store.durations import descriptions, durations, machine_of
from results.store.leases import alive
from results.store.records import ClaimRecord, RunRecord


@dataclass(frozen=True)
class Standing:
    """A study as the database has it.

    Attributes:
        trials: see `trials_frame`.
        measurements: see `measurements_frame`.
        layers: bare layers of the study.
        runs: all there were, the oldest first.
        claims: what its living runs work on.
        own: what its living runs have trained and measured.
        earlier: what was trained and measured before on their machine.
        works: what is left of its trials and layers, by fingerprint; none where no run goes on.
        now: when this was read.
    """

    study: str
    trials: pd.DataFrame
    measurements: pd.DataFrame
    layers: int
    runs: tuple[RunRecord, ...]
    claims: tuple[ClaimRecord, ...]
    own: Seen
    earlier: Seen
    works: Mapping[str, Work]
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
    """Read all that is shown of a study."""
    record, runs = store.find_study(study), tuple(store.runs(study))
    trials, measurements = trials_frame(store, study), measurements_frame(store, study)
    own, earlier, works, begun = Seen(), Seen(), {}, _begun(runs)
    if begun is not None and any(map(alive, runs)):
        own, earlier = _seen(store, study, begun)
        suites = record.request.get("suites", ())
        works = _works(descriptions(store, study), suites, trials, measurements)
    return Standing(
        study,
        trials,
        measurements,
        record.layers,
        runs,
        _living_claims(store, study),
        own,
        earlier,
        works,
        datetime.now().astimezone(),
    )


def with_progress(standing: Standing, store: Store) -> Standing:
    """Read again what its runs do now: cheap, where reading all of a large study is not."""
    return replace(
        standing,
        runs=tuple(store.runs(standing.study)),
        claims=_living_claims(store, standing.study),
        now=datetime.now().astimezone(),
    )


def run_lines(standing: Standing) -> list[str]:
    """Say whether a run goes on, ended or died, and which command takes it up again."""
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
    """Return the study, its runs, counts and pace as lines of text."""
    summary = (board.status(), board.pace(standing.now))
    return [f"Study {standing.study}", *run_lines(standing), *filter(None, summary)]


def text_of(standing: Standing) -> str:
    """Return the head lines and a line for each worker, 80 columns wide."""
    board = board_of(standing)
    workers = worker_lines(board.workers, 80)
    return "\n".join([*head_lines(standing, board), *([""] if workers else []), *workers])


def board_of(standing: Standing) -> Board:
    """Return the same board as the run itself shows."""
    names, works, trials = _names(standing.trials), standing.works, standing.trials
    done = set(standing.measurements[standing.measurements["seed"].isna()]["trial"])
    waiting: list[Work] = []
    if standing.living:
        claimed = {claim.fingerprint for claim in standing.claims}
        waiting = [works[trial] for trial in standing.open["trial"] if trial not in claimed]
        waiting += [
            each for each in works.values() if each.layer and each.name not in done | claimed
        ]
    begun, ended = _begun(standing.runs), trials[~trials["status"].isin(UNDER_WAY)]
    return make_board(
        {str(status): int(number) for status, number in trials["status"].value_counts().items()},
        (min(len(done), standing.layers), standing.layers),
        [(_worker(claim, names), _now_left(claim, works)) for claim in standing.claims],
        waiting,
        standing.own,
        standing.earlier,
        jobs=sum(run.jobs for run in standing.living),
        ended=len(ended),
        fresh=0 if begun is None else int((ended["finished_at"] >= begun).sum()),
        seconds=None if begun is None else (_end(standing) - begun).total_seconds(),
    )


def _names(trials: pd.DataFrame) -> dict[str, str]:
    """Return the router and condition of each trial, by fingerprint."""
    return {
        row.trial: f"{router_label(row.router, row.aa_replicate)} {row.condition}".strip()
        for row in trials.itertuples(index=False)
    }


def _begun(runs: Sequence[RunRecord]) -> datetime | None:
    """Return when the runs that go on began; where none does, when the last run did."""
    counting = [run for run in runs if alive(run)] or runs[-1:]
    return min((run.started_at for run in counting), default=None)


def _seen(store: Store, study: str, begun: datetime) -> tuple[Seen, Seen]:
    """Return what the machine of a study has trained and measured since then, and before."""
    machine = machine_of(store, study)
    known = [] if machine is None else durations(store, machine)
    own = Seen.of(each for each in known if each.ended >= begun)
    return own, Seen.of(each for each in known if each.ended < begun)


def _works(
    described: Mapping[str, Mapping[str, Any]],
    suites: Sequence[str],
    trials: pd.DataFrame,
    measurements: pd.DataFrame,
) -> dict[str, Work]:
    """Return what is left of trials and layers by fingerprint, as if nobody was at work on them."""
    parents = dict(trials[["trial", "parent"]].itertuples(index=False))
    measured = set(measurements[["trial", "suite"]].itertuples(index=False, name=None))
    return {
        trial: Work(
            trial,
            Kind.of(description),
            tuple(suite for suite in suites if (trial, suite) not in measured),
            layer="seed" not in description,
            after=parents.get(trial),
        )
        for trial, description in described.items()
    }


def _now_left(claim: ClaimRecord, works: Mapping[str, Work]) -> Work:
    fingerprint, progress = claim.fingerprint, claim.progress
    work = works.get(fingerprint) or Work(fingerprint, Kind(claim.router), layer=not claim.trial)
    if progress.get("doing", "training") != "training":
        return replace(work, trained=1.0)
    done = progress.get("step", 0) / max(progress.get("steps", 0), 1)
    return replace(work, trained=done, training=progress.get("seconds", 0.0))


def _worker(claim: ClaimRecord, names: Mapping[str, str]) -> Worker:
    progress = claim.progress
    return Worker(
        names.get(claim.fingerprint, claim.router),
        claim.seed,
        progress.get("doing", "starting"),
        progress.get("step", 0),
        progress.get("steps", 0),
        progress.get("loss"),
        progress.get("accuracy"),
    )


def _end(standing: Standing) -> datetime:
    """Return when the study was read, where a run goes on; else when its last run ended or died."""
    last = standing.runs[-1]
    return standing.now if standing.living else last.finished_at or last.heartbeat_at


def _living_claims(store: Store, study: str) -> tuple[ClaimRecord, ...]:
    return tuple(claim for claim in store.claims(study) if alive(claim.run))


SECONDS = 2
"""Seconds between two readings of the database."""

PAUSE = 20
"""Times as long as a study took to read pass until it is read again: timings may run meanwhile."""


def follow(store: Store, study: str, console: Console | None = None) -> None:
    """Show how the study stands until no run of it goes on: in place, or in a pipe as text."""
    console = console or Console(highlight=False)
    standing, read_again = _read(store, study)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while standing.living:
            if console.is_terminal:
                live.update(_drawn(standing, console), refresh=True)
            else:
                console.print(Text(text_of(standing)), "", sep="\n", soft_wrap=True)
            time.sleep(SECONDS)
            if time.monotonic() >= read_again:
                standing, read_again = _read(store, study)
            else:
                standing = with_progress(standing, store)


def _read(store: Store, study: str) -> tuple[Standing, float]:
    """Read how the study stands; return also when to read all of it again."""
    begun = time.monotonic()
    standing, now = read_standing(store, study), time.monotonic()
    return standing, now + PAUSE * (now - begun)


def _drawn(standing: Standing, console: Console) -> Group:
    head = Text("\n".join((f"Study {standing.study}", *run_lines(standing))))
    room = max(console.height - AROUND_WORKERS - len(standing.living), 1)
    return Group(head, show_board(board_of(standing), standing.now, console.width, room))
