"""The state of a study, from the database alone, whether its run goes on, has ended or died."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from bench.cli.board import OPEN, UNDER_WAY, Board, show_board, worker_cells, worker_lines
from bench.cli.display import clock, duration
from results import Store
from results.conditions import router_label
from results.forecasts import Kind, Pace, Seen, Work, forecast, read_seen
from results.frames import measurements_frame, trials_frame
from results.groups import grouped
from results.store.leases import alive
from results.store.records import LeaseRecord, RunRecord, StudyRecord
from results.text import counted

AROUND_WORKERS = 6
"""Lines of a terminal that do not show workers."""
SECONDS = 2
"""Seconds between two readings of the database."""
PAUSE = 20
"""Pause until a study is read again, in multiples of its reading time: timings may be running."""


@dataclass(frozen=True)
class Standing:
    """The state of a study in the database.

    Attributes:
        trials: the frame of `trials_frame`.
        measurements: the frame of `measurements_frame`.
        runs: all its runs so far, oldest first.
        leases: what its living runs are working on.
        own: what its living runs have trained and measured.
        earlier: what was trained and measured on their machine before.
        works: what is left of its trials and layers, by fingerprint; empty if no run is living.
        now: the time at which the study was read.
    """

    study: StudyRecord
    trials: pd.DataFrame
    measurements: pd.DataFrame
    runs: tuple[RunRecord, ...]
    leases: tuple[LeaseRecord, ...]
    own: Seen
    earlier: Seen
    works: Mapping[str, Work]
    now: datetime

    @property
    def living(self) -> tuple[RunRecord, ...]:
        """The runs that are alive."""
        return tuple(run for run in self.runs if alive(run))


def read_standing(store: Store, study: str) -> Standing:
    """Return everything that is shown of a study, read from the database."""
    record, runs = store.find_study(study), tuple(store.runs(study))
    trials, measurements = trials_frame(store, study), measurements_frame(store, study)
    own, earlier, works, begun = Seen(), Seen(), {}, _begun(runs)
    if begun is not None and any(map(alive, runs)):
        machine = store.machine_of(study)
        if machine is not None:
            own, earlier = read_seen(store, machine, begun)
        works = _works(store, record, trials, measurements)
    now, leases = datetime.now().astimezone(), _living_leases(store, study)
    return Standing(record, trials, measurements, runs, leases, own, earlier, works, now)


class Monitor:
    """Repeated readings of a study: its runs and leases each time, all of it less often."""

    def __init__(self, store: Store, study: str) -> None:
        self._store, self._study = store, study
        self._standing: Standing | None = None
        self._read_again = 0.0

    def read(self) -> Standing:
        """Return the state of the study; reading all of a large study takes a while."""
        begun = time.monotonic()
        if self._standing is None or begun >= self._read_again:
            self._standing = read_standing(self._store, self._study)
            ended = time.monotonic()
            self._read_again = ended + PAUSE * (ended - begun)
        else:
            self._standing = replace(
                self._standing,
                runs=tuple(self._store.runs(self._study)),
                leases=_living_leases(self._store, self._study),
                now=datetime.now().astimezone(),
            )
        return self._standing


def run_lines(standing: Standing) -> list[str]:
    """Return lines that say whether a run goes on, ended or died, and what command resumes it."""
    now = standing.now
    if standing.living:
        by_host = grouped((run.host, run) for run in standing.living)
        return [_of_host(runs, now) for _, runs in sorted(by_host.items())]
    if not standing.runs:
        return []
    run = standing.runs[-1]
    end = run.finished_at or run.heartbeat_at
    took = f"{clock(end, now)} after {duration((end - run.started_at).total_seconds())}"
    resume = f"resume with: {run.command}"
    if run.finished_at is None:
        return [f"died: process {run.pid} on {run.node}, last heard from {took}", resume]
    if left := int(standing.trials["status"].isin(OPEN).sum()):
        return [f"stopped {took} with {left} trial{'s' * (left != 1)} left", resume]
    return [f"finished {took}"]


def _of_host(runs: Sequence[RunRecord], now: datetime) -> str:
    """Return a line on what runs on a host: the process or number of processes, and the workers."""
    first, jobs = min(run.started_at for run in runs), sum(run.jobs for run in runs)
    process = f"process {runs[0].pid}" if len(runs) == 1 else f"{len(runs)} processes"
    return (
        f"running since {clock(first, now)} ({duration((now - first).total_seconds())}): "
        f"{process} on {runs[0].node}, {counted(jobs, 'worker')}"
    )


def head_lines(standing: Standing, board: Board) -> list[str]:
    """Return the study's name, runs, counts and pace as lines of text."""
    summary = (board.status(), board.pace(standing.now))
    return [f"Study {standing.study.name}", *run_lines(standing), *filter(None, summary)]


def text_of(standing: Standing) -> str:
    """Return the head lines and a line for each worker, 80 columns wide."""
    board = board_of(standing)
    workers = worker_lines(board.workers, 80)
    return "\n".join([*head_lines(standing, board), *([""] if workers else []), *workers])


def board_of(standing: Standing) -> Board:
    """Return the counts, the pace and the workers, as `run` and `status` show them."""
    study, trials = standing.study, standing.trials
    leases = sorted(standing.leases, key=lambda lease: lease.run.host)
    begun, living = _begun(standing.runs), standing.living
    measured = set(standing.measurements[standing.measurements["seed"].isna()]["trial"])
    leased = {lease.fingerprint for lease in leases}
    # A lease may be newer than the trials, which are read less often.
    begins = trials["status"].isin(OPEN) & trials["trial"].isin(leased)
    statuses = trials["status"].mask(begins, "running")
    counts = {str(status): int(number) for status, number in statuses.value_counts().items()}
    ended = trials[~statuses.isin(UNDER_WAY)]
    shares = [lease.progress.get("step", 0) / lease.progress.get("steps", 1) for lease in leases]
    works = [_work_of(lease, standing, share) for lease, share in zip(leases, shares, strict=True)]
    waiting: list[Work] = []
    if living:
        idle = measured | leased | set(trials[~statuses.isin((*OPEN, "done"))]["trial"])
        waiting = [work for name, work in standing.works.items() if name not in idle]
        undrawn = range(len(trials), study.request.get("tuning", {}).get("trials", 0))
        waiting += [Work(f"trial {number}", Kind("")) for number in undrawn]
        if undrawn:
            counts["waiting"] = counts.get("waiting", 0) + len(undrawn)

    running = [work for work in works if not work.layer]
    pace = Pace(standing.own, standing.earlier, running)
    jobs = max(sum(run.jobs for run in living), len(running))
    ends = forecast([*works, *waiting], pace, jobs) if living else None
    rate = None
    if begun is not None:
        last = standing.runs[-1]
        end = standing.now if living else last.finished_at or last.heartbeat_at
        through = int((ended["finished_at"] >= begun).sum()) + sum(shares)
        seconds = (end - begun).total_seconds()
        rate = 3600 * through / seconds if through and seconds > 0 else None
    labels = {
        row.trial: f"{router_label(row.router, row.aa_replicate)} {row.condition}".strip()
        for row in trials.itertuples(index=False)
    }
    several = len({run.host for run in living}) > 1
    workers = (
        worker_cells(
            labels.get(lease.fingerprint, lease.router),
            lease.seed,
            lease.progress,
            None if work.layer else pace.left(work),
            lease.run.node if several else None,
        )
        for lease, work in zip(leases, works, strict=True)
    )
    return Board(
        counts,
        worth=len(ended) + sum(shares),
        layers=(min(len(measured), study.layers), study.layers),
        rate=rate,
        left=None if ends is None else ends.whole,
        workers=tuple(workers),
    )


def follow(store: Store, study: str, console: Console | None = None) -> None:
    """Show the state of the study until no run is alive: in place, or in a pipe as text."""
    console, monitor = console or Console(highlight=False), Monitor(store, study)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while (standing := monitor.read()).living:
            if console.is_terminal:
                head = "\n".join((f"Study {study}", *run_lines(standing)))
                live.update(Group(Text(head), drawn(standing, console)), refresh=True)
            else:
                console.print(Text(text_of(standing)), "", sep="\n", soft_wrap=True)
            time.sleep(SECONDS)


def drawn(standing: Standing, console: Console) -> RenderableType:
    """Return the board of a study, fitted to a terminal."""
    hosts = {run.host for run in standing.living}
    room = max(console.height - AROUND_WORKERS - len(hosts), 1)
    return show_board(board_of(standing), standing.now, console.width, room)


def _works(
    store: Store, study: StudyRecord, trials: pd.DataFrame, measurements: pd.DataFrame
) -> dict[str, Work]:
    """Return what is left of trials and layers by fingerprint, ignoring who is working on them."""
    parents = dict(trials[["trial", "parent"]].itertuples(index=False))
    done = set(trials[trials["status"] == "done"]["trial"])
    measured = set(measurements[["trial", "suite"]].itertuples(index=False, name=None))
    suites = study.request.get("suites", ())
    return {
        fingerprint: Work(
            fingerprint,
            Kind.of(description),
            tuple(suite for suite in suites if (fingerprint, suite) not in measured),
            layer="seed" not in description,
            trained=float(fingerprint in done),
            after=parents.get(fingerprint),
        )
        for fingerprint, description in store.descriptions(study.name).items()
    }


def _work_of(lease: LeaseRecord, standing: Standing, share: float) -> Work:
    """Return what is left of a worker's job, given the completed share of its training."""
    fingerprint, progress = lease.fingerprint, lease.progress
    work = standing.works.get(fingerprint)
    work = work or Work(fingerprint, Kind(lease.router), layer=not lease.trial)
    if share:
        return replace(work, trained=share, training=progress.get("seconds", 0.0))
    if "since" not in progress:
        return work
    return replace(work, trained=1.0, measuring=standing.now.timestamp() - progress["since"])


def _begun(runs: Sequence[RunRecord]) -> datetime | None:
    """Return when the living runs began, or the last run if none is living."""
    counting = [run for run in runs if alive(run)] or runs[-1:]
    return min((run.started_at for run in counting), default=None)


def _living_leases(store: Store, study: str) -> tuple[LeaseRecord, ...]:
    return tuple(lease for lease in store.leases(study) if alive(lease.run))
