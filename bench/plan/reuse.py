"""Whether a trial already has a result, and why or why not."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import pydantic

from bench.config import TrialSpec
from bench.data import Datasets
from bench.plan.fingerprint import Fingerprint, Fingerprints, differences, identity
from bench.plan.plan import Planned, PlannedSuite
from bench.train import read_outcome
from results import AttemptRecord, Store
from results.store.leases import alive
from results.store.read import counting
from results.store.records import AttemptStatus, Made, TrialRecord
from results.text import changed_names, to_json
from routers.errors import BenchError

Retry = Literal["failed", "timed_out", "all", "noisy"] | None
"""Which trials without a result are tried again; "noisy": timings that other load disturbed."""
ENDED: Mapping[AttemptStatus, tuple[Retry, str]] = {
    AttemptStatus.FAILED: ("failed", "failed"),
    AttemptStatus.OUT_OF_MEMORY: ("failed", "ran out of memory"),
    AttemptStatus.TIMED_OUT: ("timed_out", "timed out"),
    AttemptStatus.DIVERGED: ("all", "diverged"),
    AttemptStatus.PRUNED: ("all", "was stopped while it was tuned"),
}
"""By the status of an attempt without a result: the `Retry` that repeats it, and what happened."""


@dataclass(frozen=True)
class Decision:
    """The decision whether to train a trial, why or why not, and which suites measure it.

    Attributes:
        due: the suites that have not measured it yet.
        attempt: the attempt whose result is reused, or that gave none and is not tried again.
    """

    train: bool
    reason: str
    due: tuple[PlannedSuite, ...] = ()
    attempt: AttemptRecord | None = None


class Reuse:
    """Decisions on reuse, from the current content of the database and the home folder.

    Args:
        home: the folder that the paths of checkpoints are relative to.
        machine_id: row of this machine, which timings belong to; None if it has no row yet.
        retry: which trials that ended without a result are tried again; "noisy" repeats none of
            them, only the timings that other load disturbed.
        newest: the last attempt and the last measurement that `retry` covers; None for the latest.
        explain: whether a new trial is compared with all others in the database, to say what is
            new about it.

    Attributes:
        newest: the last attempt that `retry` covers.
    """

    def __init__(
        self,
        store: Store,
        home: Path,
        machine_id: int | None,
        retry: Retry = None,
        newest: tuple[int, int] | None = None,
        explain: bool = True,
    ) -> None:
        self._store, self._home, self._explain = store, home, explain
        self._machine_id, self._retry = machine_id, retry
        # What another run tries again in the meantime is not tried a third time.
        self.newest, timing = newest or store.newest()
        self._newest_timing = timing if retry == "noisy" else 0

    def trials(self, planned: Sequence[Planned]) -> list[Decision]:
        """Return the decision on each trial; parents must come before their children."""
        tried = self._store.attempts(each.fingerprint.value for each in planned)
        done = self._results(planned, tried)
        made = self._store.measured(attempt.id for attempt in done.values())
        decisions: dict[str, Decision] = {}
        parents: set[str | None] = set()
        for each in reversed(planned):
            name = each.fingerprint.value
            if name in done:
                due = _missing(each.suites, made.get(done[name].id, set()))
                why = self._why_again(each, done[name], due, is_parent=name in parents)
                same = Decision(False, "same description, data and source", due, done[name])
                decision = Decision(True, why, each.suites) if why else same
            elif name in tried:
                last = tried[name][-1]
                again, reason = tried_again(last, self._retry if last.id <= self.newest else None)
                no_result = Decision(False, reason, attempt=last)
                decision = Decision(True, reason, each.suites) if again else no_result
            else:
                decision = Decision(True, self._why_new(each.fingerprint), each.suites)
            if decision.train:
                parents.add(each.fingerprint.parent)
            decisions[name] = decision
        # Children that failed because of their parent are tried again if it has a result now.
        for each in planned:
            name, parent = each.fingerprint.value, each.fingerprint.parent
            decision = decisions[name]
            if decision.train or parent is None or decision.attempt is None:
                continue
            if not _is_orphan(decision.attempt, tried.get(parent, ())):
                continue
            trained = parent in decisions and decisions[parent].train
            if trained or self._store.done_attempt(parent) is not None:
                decisions[name] = Decision(True, "its parent had no result then", each.suites)
        return [decisions[each.fingerprint.value] for each in planned]

    def layers(self, planned: Sequence[Planned]) -> list[tuple[PlannedSuite, ...]]:
        """List, for each layer, the suites that still have to measure it on this machine."""
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

    def _why_again(
        self, planned: Planned, done: AttemptRecord, due: Sequence[PlannedSuite], *, is_parent: bool
    ) -> str | None:
        """Return why a trial that has a result is trained again, or None if it is not.

        `is_parent` says that another trial, which has to be trained, starts from its weights.
        """
        if self._is_of_other_clock(planned, done):
            return "its budget of seconds was spent on another machine"
        if not self._has_weights(done):
            if is_parent:
                return "its checkpoint is gone, and a derived trial needs it"
            return "its checkpoint is gone, and a suite needs it" if due else None
        if not due:
            return None
        folder = (self._home / str(done.checkpoint)).parent
        try:
            snapshots = read_outcome(folder).snapshots
        except BenchError as error:
            return str(error)
        gone = [saved.file for saved in snapshots if not (folder / saved.file).is_file()]
        return f"its snapshot {gone[0]} is gone, and a suite needs it" if gone else None

    def _results(
        self, planned: Sequence[Planned], tried: Mapping[str, Sequence[AttemptRecord]]
    ) -> dict[str, AttemptRecord]:
        """Return each trial's attempt that counts, preferring this machine's if time is matched."""
        results = {}
        for each in planned:
            attempts = tried.get(each.fingerprint.value, ())
            here = [attempt for attempt in attempts if not self._is_of_other_clock(each, attempt)]
            if done := counting(here) or counting(attempts):
                results[each.fingerprint.value] = done
        return results

    def _is_of_other_clock(self, planned: Planned, attempt: AttemptRecord) -> bool:
        """Tell whether a budget of seconds was spent on another machine, so that steps differ."""
        matched = planned.spec.compute.match
        return matched == "wall_clock" and attempt.machine_id != self._machine_id

    def _why_new(self, fingerprint: Fingerprint) -> str:
        if not self._explain:
            return "no result yet"
        alike = self._alike[to_json(identity(fingerprint.description))]
        others = [trial for trial in alike if trial.fingerprint != fingerprint.value]
        return "; ".join(differences(fingerprint, others[-1])) if others else "new"

    @cached_property
    def _alike(self) -> defaultdict[str, list[TrialRecord]]:
        """The trials by their description, oldest first."""
        alike = defaultdict(list)
        for trial in self._store.all_trials():
            alike[to_json(identity(trial.description))].append(trial)
        return alike

    def _has_weights(self, done: AttemptRecord) -> bool:
        return bool(done.checkpoint) and (self._home / str(done.checkpoint)).is_file()


def _is_orphan(last: AttemptRecord, parent: Sequence[AttemptRecord]) -> bool:
    """Tell whether a derived trial failed while none of its parent's attempts had a result."""
    done = (each.finished_at for each in parent if each.status == AttemptStatus.DONE)
    return last.status == AttemptStatus.FAILED and not any(
        ended is not None and ended <= last.started_at for ended in done
    )


def tried_again(last: AttemptRecord, retry: Retry = None) -> tuple[bool, str]:
    """Tell whether a trial whose last attempt gave no result is tried again, and why or why not."""
    if last.status not in ENDED:
        return True, "continues an interrupted attempt"
    asked, happened = ENDED[last.status]
    first_line = "".join((last.error or "").strip().splitlines()[:1])
    outcome = f"it {happened}: {first_line}" if first_line else f"it {happened}"
    if retry in (asked, "all"):
        return True, f"tried again; last time {outcome}"
    return False, f"{outcome}; --retry {asked} tries again"


def _missing(suites: Sequence[PlannedSuite], made: set[Made]) -> tuple[PlannedSuite, ...]:
    """Return the suites that have not measured yet."""
    return tuple(
        suite
        for suite in suites
        if Made(suite.name, to_json(suite.options), suite.source_hash) not in made
    )


def explain(trial: TrialRecord, store: Store) -> Iterator[str]:
    """Yield lines that compare a stored trial with what it would be now."""
    yield f"trial {trial.fingerprint}"
    try:
        spec = TrialSpec.model_validate(trial.description)
        now = Fingerprints().trial(spec, Datasets().hash_of)
        _require_model(now, spec, trial)
    except (BenchError, pydantic.ValidationError) as error:
        yield f"not reused: it cannot be described now: {error}"
        return
    yield f"{spec.router.name}, seed {spec.seed}, on {spec.data.name}"
    if spec.parent is not None:
        yield f"{spec.transform} from {spec.parent.router.name}, trial {now.parent}"
    changed = differences(now, trial)
    before = {(part.kind, part.name, part.source_hash) for part in trial.components}
    stored = store.definitions_of(trial)
    for part in now.parts:
        same = (part.kind, part.name, part.digest) in before
        known = stored.get((part.kind, part.name))  # None from an older version of the bench
        which = changed_names(known, part.definitions) if known and not same else ""
        yield f"  {'same   ' if same else 'CHANGED'}  {part.label}{which}"
    if changed:
        yield f"not reused: {'; '.join(changed)}"
    else:
        yield from _unchanged(trial, store)


def _require_model(now: Fingerprint, spec: TrialSpec, trial: TrialRecord) -> None:
    """Refuse a model that is no longer known; timm is imported (seconds) only if it is needed."""
    known = {part.source_hash for part in trial.components if part.kind == "model"}
    if not known & {part.digest for part in now.parts if part.kind == "model"}:
        from bench.model.timm_models import require_model

        require_model(spec.model.name)


def _unchanged(trial: TrialRecord, store: Store) -> Iterator[str]:
    """Yield what the next run does with an unchanged trial."""
    if store.done_attempt(trial.fingerprint) is not None:
        yield "reused: same description, data and source; its last attempt is done"
        return
    held = [lease.run for lease in store.leases() if lease.fingerprint == trial.fingerprint]
    if held and alive(held[0]):
        yield f"not reused: process {held[0].pid} of {held[0].node} is working on it now"
        return
    last = store.last_attempt(trial.fingerprint)
    if last is None:
        yield "not reused: nobody has tried it yet"
        return
    again, reason = tried_again(last)
    yield f"{'not reused' if again else 'not tried again'}: {reason}"
    if last.traceback:
        yield last.traceback.rstrip()
