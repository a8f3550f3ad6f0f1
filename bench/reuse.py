"""Whether a trial's result is there already, and which part of its fingerprint decided."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.fingerprint import Fingerprint, canonical, identity
from bench.outcome import read_outcome
from bench.plan import Planned, PlannedSuite
from results import AttemptRecord, Store
from results.identities import TrialRecord, all_trials, layer_row
from routers.errors import BenchError


@dataclass(frozen=True)
class Decision:
    """What to do about a trial.

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
    """Decides by what the database and the home folder hold at this moment.

    Args:
        home: the folder that checkpoints are named from.
        machine_id: row of this machine, to which timings belong; None where it has none yet.
    """

    def __init__(self, store: Store, home: Path, machine_id: int | None) -> None:
        self._store, self._home, self._machine_id = store, home, machine_id
        self._alike: dict[str, list[TrialRecord]] = defaultdict(list)
        for trial in all_trials(store):
            self._alike[_key(trial.description)].append(trial)

    def trials(self, planned: Sequence[Planned]) -> list[Decision]:
        """What to do about each trial of a plan, where parents come before their children."""
        decisions: list[Decision] = []
        parents: set[str | None] = set()
        for each in reversed(planned):
            decisions.append(self.trial(each, is_parent=each.fingerprint.value in parents))
            if decisions[-1].train:
                parents.add(each.fingerprint.parent)
        return decisions[::-1]

    def trial(self, planned: Planned, *, is_parent: bool = False) -> Decision:
        """What to do about a trial.

        Args:
            is_parent: whether another that has to be trained starts from its weights.
        """
        done = self._store.done_attempt(planned.fingerprint.value)
        if done is None:
            return self._undone(planned)
        if is_parent and not self._has_weights(done):
            gone = "its checkpoint is gone, and a derived trial needs it"
            return Decision(True, gone, planned.suites)
        due = tuple(suite for suite in planned.suites if not self._measured(suite, done.id))
        lost = self._lost(done) if due else None
        if lost:
            return Decision(True, lost, planned.suites)
        return Decision(False, "same description, data and source", due, done)

    def layer(self, planned: Planned) -> tuple[PlannedSuite, ...]:
        """The suites that have not measured a layer on this machine yet."""
        row = layer_row(self._store, planned.fingerprint.value)
        if row is None or self._machine_id is None:
            return planned.suites
        return tuple(suite for suite in planned.suites if not self._timed(suite, row))

    def _undone(self, planned: Planned) -> Decision:
        fingerprint = planned.fingerprint
        last = self._store.last_attempt(fingerprint.value)
        if last is not None and last.status == "diverged":
            return Decision(False, "it diverged, and would again", attempt=last)
        if last is not None:
            return Decision(True, _why_again(last), planned.suites)
        older = self._alike[_key(fingerprint.description)]
        if older:
            return Decision(True, "; ".join(differences(fingerprint, older[-1])), planned.suites)
        return Decision(True, "new", planned.suites)

    def _lost(self, done: AttemptRecord) -> str | None:
        """Why what a training left can be measured no more; None where all of it is there."""
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

    def _measured(self, suite: PlannedSuite, attempt_id: int) -> bool:
        return self._store.measured(
            suite.name, suite.options, suite.source_hash, attempt_id=attempt_id
        )

    def _timed(self, suite: PlannedSuite, layer_id: int) -> bool:
        return self._store.measured(
            suite.name,
            suite.options,
            suite.source_hash,
            layer_id=layer_id,
            machine_id=self._machine_id,
        )


def differences(now: Fingerprint, then: TrialRecord) -> list[str]:
    """What sets a fingerprint apart from a trial's of before, in words; none where nothing does."""
    before = {(part.kind, part.name): part.source_hash for part in then.components}
    current = {(part.kind, part.name): part for part in now.parts}
    shared = [part for key, part in current.items() if key in before]
    changed = [part for part in shared if before[part.kind, part.name] != part.digest]
    kinds = {
        "changed data": [repr(part.name) for part in changed if part.kind == "data"],
        "changed parent": [repr(part.name) for part in changed if part.kind == "parent"],
        "changed source": [part.label for part in changed if part.kind not in ("data", "parent")],
        "new": [part.label for key, part in current.items() if key not in before],
        "gone": [f"{kind} {name!r}" for kind, name in before.keys() - current.keys()],
    }
    found = [f"{kind}: {', '.join(labels)}" for kind, labels in kinds.items() if labels]
    return [*_description_differences(now, then), *found]


def _description_differences(now: Fingerprint, then: TrialRecord) -> list[str]:
    before, current = _flat(identity(then.description)), _flat(identity(now.description))
    return [
        f"{path} is {current.get(path, 'unset')}, was {before.get(path, 'unset')}"
        for path in sorted(before.keys() | current.keys())
        if before.get(path) != current.get(path)
    ]


def _flat(value: object, path: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        parts = (_flat(inner, f"{path}.{key}" if path else key) for key, inner in value.items())
        return {name: text for part in parts for name, text in part.items()}
    return {path: canonical(value)}


def _key(description: dict[str, object]) -> str:
    return canonical(identity(description))


def _why_again(last: AttemptRecord) -> str:
    if last.status == "running":
        return "an earlier attempt did not end"
    first_line = (last.error or "").strip().splitlines()[:1]
    return f"its last attempt {last.status.replace('_', ' ')}: {''.join(first_line)}"
