"""Class-balanced hold-outs, the same on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.data.draws import Purpose, random_order
from routers.errors import RequestError

SEED = 0


def hold_out(
    labels: NDArray[np.int64], share: float, classes: tuple[str, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split off `share` of every class, at least one image of each, by a fixed seed.

    Args:
        labels: (n,) class of each image; or its group, where more than classes are kept apart.
        share: in (0, 1).
        classes: names, for the message.

    Returns:
        kept, held: sorted indices into `labels`.

    Raises:
        RequestError: a class has fewer than two images.
    """
    held = []
    for label, name in enumerate(classes):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise RequestError(
                f"class {name!r} has too few training images, {len(members)}: "
                "at least 2 are needed to split some off for validation or test"
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held.append(members[random_order(len(members), Purpose.HOLD_OUT, SEED, label)[:count]])
    chosen = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen
