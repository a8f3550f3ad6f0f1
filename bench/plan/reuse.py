"""Whether a trial's result is there already, and which part of its fingerprint decided."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from bench.plan.fingerprint import Fingerprint, differences, identity
from bench.plan.plan import Planned, PlannedSuite
from bench.train import read_outcome
from results import AttemptRecord, Store
from results.store.records import AttemptStatus, Made
from results.store.registration import TrialRecord, all_trials
from results.text import to_json
from routers.errors import BenchError

Retry = Literal["failed", "timed_out", "all", "noisy"] | None
"""Which trials without a result are tried again; or timings that other load disturbed."""
ENDED: Mapping[AttemptStatus, tuple[Retry, str]] = {
    AttemptStatus.FAILED: ("failed", "failed"),
    AttemptStatus.OUT_OF_MEMORY: ("failed", "ran out of memory"),
    AttemptStatus.TIMED_OUT: ("timed_out", "timed out"),
    AttemptStatus.DIVERGED: ("all", "diverged"),
    AttemptStatus.PRUNED: ("all", "was stopped while it was tuned"),
}
"""By the status of an attempt without a result: who asks for another one, and what happened."""


@dataclass(frozen=True)
class Decision:
    """The decision whether to train a trial, and which suites measure it.

    Attributes:
        train: whether it has to be trained.
        reason: why, or why not.
        due: the suites that have not measured it yet.
        attempt: the one whose result is reused.
    """

    train: bool
    reason: str
    due: tuple[PlannedSuite, ...] = ()
    attempt: AttemptRecord | None = None


class Reuse:
    """The decisions on reuse, by the current content of the database and the home folder.

    Args:
        home: the folder that checkpoints are named from.
        machine_id: row of this machine, to which timings belong; None where it has none yet.
        retry: which trials are tried again that ended without a result; of "noisy" none, but the
            timings that other load disturbed.
    """

    def __init__(
        self, store: Store, home: Path, machine_id: int | None, retry: Retry = None
    ) -> None:
        self._store, self._home = store, home
        self._machine_id, self._retry = machine_id, retry
        # What another run tries again meanwhile is not tried a third time.
        self._newest = store.newest_attempt()
        self._newest_timing = store.newest_measurement() if retry == "noisy" else 0

    def trials(self, planned: Sequence[Planned]) -> list[Decision]:
        """Decide on each trial; parents come before their children."""
        tried = self._store.attempts(each.fingerprint.value for each in planned)
        done = self._results(planned, tried)
        made = self._store.measured(attempt.id for attempt in done.values())
        decisions: list[Decision] = []
        parents: set[str | None] = set()
        for each in reversed(planned):
            name = each.fingerprint.value
            if name in done and self._is_of_other_clock(each, done[name]):
                decision = Decision(True, "its seconds were those of another machine", each.suites)
            elif name in done:
                due = _missing(each.suites, made.get(done[name].id, set()))
                decision = self._done(each, done[name], due, is_parent=name in parents)
            elif name in tried:
                decision = self._undone(each, tried[name][-1])
            else:
                decision = Decision(True, self._why_new(each.fingerprint), each.suites)
            if decision.train:
                parents.add(each.fingerprint.parent)
            decisions.append(decision)
        return self._with_orphans(planned, decisions[::-1], tried)

    def _with_orphans(
        self,
        planned: Sequence[Planned],
        decisions: list[Decision],
        tried: Mapping[str, Sequence[AttemptRecord]],
    ) -> list[Decision]:
        """Retry children that failed because of their parent, where it has a result now."""
        train = {p.fingerprint.value for p, d in zip(planned, decisions, strict=True) if d.train}
        for number, (each, decision) in enumerate(zip(planned, decisions, strict=True)):
            parent, last = each.fingerprint.parent, decision.attempt
            if decision.train or parent is None or last is None:
                continue
            if not _is_orphan(last, tried.get(parent, ())):
                continue
            if parent in train or self._store.done_attempt(parent) is not None:
                decisions[number] = Decision(True, "its parent gave no result then", each.suites)
                train.add(each.fingerprint.value)
        return decisions

    def layers(self, planned: Sequence[Planned]) -> list[tuple[PlannedSuite, ...]]:
        """List for each layer the suites that still have to measure it on this machine."""
        if self._machine_id is None:
            return [each.suites for each in planned]
        names = [each.fingerprint.value for each in planned]
        made = self._store.measured_layers(names, self._machine_id)
        if self._newest_timing:
            noisy = self._store.disturbed_layers(names, self._machine_id, self._newest_timing)
            made = {name: known - noisy.get(name, set()) for name, known in made.items()}
        return [
            _missing(each.suites, made.get(name, set()))
            for each, name in zip(planned, names, strict=True)
        ]

    def _done(
        self,
        planned: Planned,
        done: AttemptRecord,
        due: tuple[PlannedSuite, ...],
        *,
        is_parent: bool,
    ) -> Decision:
        """Decide on a trial that has a result.

        Args:
            is_parent: whether another that has to be trained starts from its weights.
        """
        if is_parent and not self._has_weights(done):
            gone = "its checkpoint is gone, and a derived trial needs it"
            return Decision(True, gone, planned.suites)
        lost = self._lost(done) if due else None
        if lost:
            return Decision(True, lost, planned.suites)
        return Decision(False, "same description, data and source", due, done)

    def _results(
        self, planned: Sequence[Planned], tried: Mapping[str, Sequence[AttemptRecord]]
    ) -> dict[str, AttemptRecord]:
        """Find the last done attempt at each trial, by the clock rather one of this machine."""
        last_done = {}
        for each in planned:
            attempts = tried.get(each.fingerprint.value, ())
            here = [attempt for attempt in attempts if not self._is_of_other_clock(each, attempt)]
            last = _done(here) or _done(attempts)
            if last is not None:
                last_done[each.fingerprint.value] = last
        return last_done

    def _is_of_other_clock(self, planned: Planned, attempt: AttemptRecord) -> bool:
        """Tell whether a training was given seconds, which make other steps on another machine."""
        matched = planned.spec.compute.match
        return matched == "wall_clock" and attempt.machine_id != self._machine_id

    def _undone(self, planned: Planned, last: AttemptRecord) -> Decision:
        again, reason = tried_again(last, self._retry if last.id <= self._newest else None)
        if again:
            return Decision(True, reason, planned.suites)
        return Decision(False, reason, attempt=last)

    def _why_new(self, fingerprint: Fingerprint) -> str:
        alike = self._alike.get(_key(fingerprint.description), [])
        others = [trial for trial in alike if trial.fingerprint != fingerprint.value]
        return "; ".join(differences(fingerprint, others[-1])) if others else "new"

    @cached_property
    def _alike(self) -> Mapping[str, Sequence[TrialRecord]]:
        """The trials of each description, the oldest first."""
        alike = defaultdict(list)
        for trial in all_trials(self._store):
            alike[_key(trial.description)].append(trial)
        return alike

    def _lost(self, done: AttemptRecord) -> str | None:
        """Say why a training can no longer be measured; None where all its files are there."""
        if not self._has_weights(done):
            return "its checkpoint is gone, and a suite needs it"
        folder = (self._home / str(done.checkpoint)).parent
        try:
            snapshots = read_outcome(folder).snapshots
        except BenchError as error:
            return str(error)
        gone = [saved.file for saved in snapshots if not (folder / saved.file).is_file()]
        return f"its snapshot {gone[0]} is gone, and a suite needs it" if gone else None

    def _has_weights(self, done: AttemptRecord) -> bool:
        return bool(done.checkpoint) and (self._home / str(done.checkpoint)).is_file()


def _is_orphan(last: AttemptRecord, parent: Sequence[AttemptRecord]) -> bool:
    """Tell whether a derived trial failed while its parent, by these attempts, had no result."""
    done = (each.finished_at for each in parent if each.status == AttemptStatus.DONE)
    return last.status == AttemptStatus.FAILED and not any(
        ended is not None and ended <= last.started_at for ended in done
    )


def tried_again(last: AttemptRecord, retry: Retry = None) -> tuple[bool, str]:
    """Tell whether a trial is tried again whose last attempt gave no result, and why or why not."""
    if last.status not in ENDED:
        return True, "continues an interrupted attempt"
    asked, happened = ENDED[last.status]
    first_line = "".join((last.error or "").strip().splitlines()[:1])
    outcome = f"it {happened}: {first_line}" if first_line else f"it {happened}"
    if retry in (asked, "all"):
        return True, f"tried again; last time {outcome}"
    return False, f"{outcome}; --retry {asked} tries again"


def _key(description: dict[str, object]) -> str:
    return to_json(identity(description))


def _done(tried: Sequence[AttemptRecord]) -> AttemptRecord | None:
    """Return the last attempt that is done; None where none is."""
    return next(
        (attempt for attempt in reversed(tried) if attempt.status == AttemptStatus.DONE), None
    )


def _missing(suites: Sequence[PlannedSuite], made: set[Made]) -> tuple[PlannedSuite, ...]:
    """Return the suites that have not measured yet."""
    return tuple(
        suite
        for suite in suites
        if Made(suite.name, to_json(suite.options), suite.source_hash) not in made
    )
