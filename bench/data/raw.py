"""What a source of images hands over, before splits are completed and images made of one shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class RawSplit:
    """Images as they come.

    Attributes:
        images: uint8 (n, h, w) or (n, h, w, c).
        labels: int64 (n,).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def select(self, indices: NDArray[np.int64]) -> RawSplit:
        """The images at `indices`, in that order."""
        return RawSplit(self.images[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class RawData:
    """A source's whole content.

    Attributes:
        classes: names, by label.
        splits: "train", and "val" and "test" where the source has them.
        licence: of the images, or where to read it.
        val_share: of "train" that becomes "val" where the source has none; None for the usual one.
    """

    classes: tuple[str, ...]
    splits: dict[str, RawSplit]
    licence: str
    val_share: float | None = None
