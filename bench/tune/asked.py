"""What a search was asked for, kept with its trials: they are of one search only if it is the same.

More trials may be asked for later; anything else makes another search.
"""

from __future__ import annotations

from typing import Any

from optuna.distributions import distribution_to_json

from bench.differences import differences
from bench.fingerprint import Fingerprint
from bench.tune.config import Pruner
from bench.tune.space import Space
from results.identities import ComponentRef, TrialRecord
from routers.errors import RequestError


def request_of(fingerprint: Fingerprint, space: Space, pruner: Pruner) -> dict[str, Any]:
    """As plain data.

    Args:
        fingerprint: of the router's trial with nothing tuned; the seed is in it.
    """
    return {
        "pruner": pruner,
        **{f"range of {path}": distribution_to_json(where) for path, where in space.items()},
        "description": fingerprint.description,
        "parts": [[part.kind, part.name, part.digest] for part in fingerprint.parts],
    }


def refuse_other(
    study: str, router: str, fingerprint: Fingerprint, now: dict[str, Any], then: dict[str, Any]
) -> None:
    """Refuse to go on with a search that was asked for otherwise.

    Raises:
        RequestError: it says what differs.
    """
    if now == then:
        return
    changes = [
        f"{name} is {now.get(name, 'unset')}, was {then.get(name, 'unset')}"
        for name in {**then, **now}
        if name not in ("description", "parts") and now.get(name) != then.get(name)
    ]
    parts = tuple(ComponentRef(*part) for part in then["parts"])
    changes += differences(fingerprint, TrialRecord(0, "", then["description"], parts))
    raise RequestError(
        f"tuning {study!r} of {router} was begun otherwise: {'; '.join(changes)}; give --study "
        "another name"
    )
