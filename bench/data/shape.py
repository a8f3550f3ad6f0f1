"""The one shape that all images of a data set are brought to."""

from __future__ import annotations

from collections.abc import Sequence

from bench.data.pictures import Header, Key
from bench.data.raw import RawSplit
from routers.errors import RequestError


def common_shape(
    splits: Sequence[RawSplit], image_size: int | None, channels: int | None
) -> tuple[int, int, int]:
    """(channels, height, width) that all images are to be brought to.

    What is None is taken from the images: one channel where all of them are grey, else three.

    Raises:
        RequestError: no `image_size`, and the images are not squares of one size; or `channels` is
            neither 1 nor 3.
    """
    if channels not in (None, 1, 3):
        raise RequestError(f"data.channels is {channels}; images have 1 (grey) or 3 (colour)")
    if image_size is None or channels is None:
        found: dict[Header, Key] = {}
        for split in splits:
            found = split.headers() | found
        image_size = image_size or _only_size(found)
        channels = channels or (1 if all(grey for _, _, grey in found) else 3)
    return channels, image_size, image_size


def _only_size(found: dict[Header, Key]) -> int:
    sizes = {(width, height): key for (width, height, _), key in found.items()}
    examples = ", ".join(f"{w} × {h} ({key})" for (w, h), key in list(sizes.items())[:3])
    if len(sizes) > 1:
        raise RequestError(f"images are of unequal size: {examples}; set data.image_size")
    ((width, height),) = sizes
    if width != height:
        raise RequestError(f"images are not square: {examples}; set data.image_size")
    return width
