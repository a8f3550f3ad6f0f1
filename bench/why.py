"""Why a stored trial would be reused now, or not."""

from __future__ import annotations

from collections.abc import Iterator

import pydantic

from bench.config import TrialSpec
from bench.datasets import Datasets
from bench.fingerprint import Fingerprints
from bench.reuse import differences
from results import Store
from results.identities import TrialRecord
from routers.errors import BenchError


def explain(trial: TrialRecord, store: Store) -> Iterator[str]:
    """Lines that compare a stored trial with what its description would be now."""
    yield f"trial {trial.fingerprint}"
    try:
        spec = TrialSpec.model_validate(trial.description)
        now = Fingerprints().trial(spec, Datasets().hash_of)
    except (BenchError, pydantic.ValidationError) as error:
        yield f"not reused: it cannot be described now: {error}"
        return
    yield f"{spec.router.name}, seed {spec.seed}, on {spec.data.name}"
    if spec.parent is not None:
        yield f"{spec.transform} from {spec.parent.router.name}, trial {now.parent}"
    changed = differences(now, trial)
    attempt = store.done_attempt(trial.fingerprint) or store.last_attempt(trial.fingerprint)
    how = "waiting" if attempt is None else attempt.status.replace("_", " ")
    before = {(part.kind, part.name, part.source_hash) for part in trial.components}
    for part in now.parts:
        same = (part.kind, part.name, part.digest) in before
        yield f"  {'same   ' if same else 'CHANGED'}  {part.label}"
    if changed:
        yield f"not reused: {'; '.join(changed)}"
    elif attempt is None or attempt.status not in ("done", "diverged"):
        yield f"not reused: its last attempt is {how}"
        if attempt is not None and attempt.traceback:
            yield attempt.traceback.rstrip()
    else:
        yield f"reused: same description, data and source; its last attempt is {how}"
