"""The reasons why a stored trial would be reused now, or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pydantic

from bench.config import TrialSpec
from bench.data import Datasets
from bench.plan.fingerprint import Fingerprint, Fingerprints, Part, differences
from bench.plan.reuse import tried_again
from results import Store
from results.store.leases import alive
from results.store.registration import TrialRecord, definitions_of
from routers.errors import BenchError

MOST_NAMES = 8
"""Definitions that are named of a part that changed."""


def explain(trial: TrialRecord, store: Store) -> Iterator[str]:
    """Yield lines that compare a stored trial with what its description would be now."""
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
    stored = definitions_of(store, trial)
    for part in now.parts:
        same = (part.kind, part.name, part.digest) in before
        which = "" if same else _changed_definitions(part, stored.get((part.kind, part.name)))
        yield f"  {'same   ' if same else 'CHANGED'}  {part.label}{which}"
    if changed:
        yield f"not reused: {'; '.join(changed)}"
    else:
        yield from _unchanged(trial, store)


def _changed_definitions(now: Part, before: Mapping[str, str] | None) -> str:
    """Name the definitions that changed, came or went; "" where they are not known."""
    if not before:
        return ""
    names = sorted(dict(now.definitions.items() ^ before.items()))
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f": {', '.join(names[:MOST_NAMES])}{more}" if names else ""


def _require_model(now: Fingerprint, spec: TrialSpec, trial: TrialRecord) -> None:
    """Refuse a model that is not registered now; timm, which takes seconds, may not be needed."""
    known = {part.source_hash for part in trial.components if part.kind == "model"}
    if not known & {part.digest for part in now.parts if part.kind == "model"}:
        from bench.model.timm_models import require_model

        require_model(spec.model.name)


def _unchanged(trial: TrialRecord, store: Store) -> Iterator[str]:
    """Say what the next run does about an unchanged trial."""
    if store.done_attempt(trial.fingerprint) is not None:
        yield "reused: same description, data and source; its last attempt is done"
        return
    held = [claim.run for claim in store.claims() if claim.fingerprint == trial.fingerprint]
    if held and alive(held[0]):
        yield f"not reused: process {held[0].pid} of {held[0].node} works on it now"
        return
    last = store.last_attempt(trial.fingerprint)
    if last is None:
        yield "not reused: nobody has tried it yet"
        return
    again, reason = tried_again(last)
    yield f"{'not reused' if again else 'not tried again'}: {reason}"
    if last.traceback:
        yield last.traceback.rstrip()
