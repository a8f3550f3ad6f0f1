"""Pictures in files, decoded and resized to one shape when a batch needs them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from routers.errors import RequestError

Key = str | int
Header = tuple[int, int, bool]  # width, height, whether it is grey
Result = TypeVar("Result")
Outcome = tuple[Result | None, str]  # the result of a picture, or why it cannot be read

NAMED = 10  # unreadable pictures that a message names
UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
BLOCK = 16  # pictures that a thread takes at a time
GREY_MODES = {"1", "L", "LA", "I", "I;16", "I;16B", "F"}


class UnreadableError(RequestError):
    """An error that names the first ten unreadable pictures and counts the others."""

    def __init__(self, faults: Sequence[str]) -> None:
        more = [f"and {len(faults) - NAMED} more"] if len(faults) > NAMED else []
        super().__init__("\n".join([*faults[:NAMED], *more]))


def open_file(path: Key) -> Image.Image:
    """Open the picture in a file; its pixels are read only when they are needed."""
    return Image.open(str(path))


@dataclass(frozen=True, eq=False)
class Pictures:
    """A sequence of pictures.

    Attributes:
        keys: the path of each picture, or the number that `open` knows it by.
        open: returns the picture of a key.
        place: names the source of numbered pictures in error messages.
    """

    keys: Sequence[Key]
    open: Callable[[Any], Image.Image] = open_file
    place: str = ""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def in_files(self) -> bool:
        """Whether every picture is in a file of its own."""
        return all(isinstance(key, str) for key in self.keys)

    def select(self, indices: NDArray[np.int64]) -> Pictures:
        """Return the pictures at `indices`, in that order."""
        return Pictures([self.keys[index] for index in indices.tolist()], self.open, self.place)

    def map(self, function: Callable[[Image.Image], Result]) -> list[Result]:
        """Apply `function` to every picture, in order; `UnreadableError` if any is unreadable.

        Files are read in threads, since decoders release the GIL. Numbered pictures are not, since
        they may share one open file.
        """
        results, faults = zip(*self._results(function), strict=True) if self.keys else ((), ())
        if any(faults):
            raise UnreadableError(list(filter(None, faults)))
        return cast(list[Result], list(results))

    def faults(self) -> list[str]:
        """Return what is wrong with each picture whose pixels cannot be read."""
        return [fault for _, fault in self._results(_decode) if fault]

    def headers(self) -> dict[Header, Key]:
        """Return the sizes and kinds that occur, each with the key of the first such picture."""
        headers = self.map(lambda picture: (*picture.size, picture.mode in GREY_MODES))
        examples: dict[Header, Key] = {}
        for key, header in zip(self.keys, headers, strict=True):
            examples.setdefault(header, key)
        return examples

    def _results(self, function: Callable[[Image.Image], Result]) -> Iterator[Outcome[Result]]:
        def read(block: Sequence[Key]) -> list[Outcome[Result]]:
            return [self._read(key, function) for key in block]

        if not self.in_files:
            yield from read(self.keys)
            return
        with ThreadPoolExecutor() as pool:
            blocks = [self.keys[start : start + BLOCK] for start in range(0, len(self), BLOCK)]
            for outcomes in pool.map(read, blocks):
                yield from outcomes

    def _read(self, key: Key, function: Callable[[Image.Image], Result]) -> Outcome[Result]:
        try:
            with self.open(key) as picture:
                return function(picture), ""
        except UNREADABLE as error:
            name = f"image {key} of {self.place}" if self.place else key
            return None, f"{name} cannot be read as an image: {error}"


@dataclass(frozen=True, eq=False)
class LazyImages:
    """Pictures with the interface of a uint8 tensor (n, c, h, w), decoded batch by batch.

    A picture is scaled (bicubic, antialiased) until its shorter side fits, then centre-cropped.
    """

    pictures: Pictures
    image_shape: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.pictures), *self.image_shape)

    def __getitem__(self, indices: Tensor) -> Tensor:
        chosen = self.pictures.select(indices.cpu().numpy())
        return torch.from_numpy(np.stack(chosen.map(self._pixels)))

    def _pixels(self, picture: Image.Image) -> NDArray[np.uint8]:
        channels, height, width = self.image_shape
        converted = _decode(picture).convert("L" if channels == 1 else "RGB")
        if converted.size != (width, height):
            converted = ImageOps.fit(converted, (width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(converted)
        return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _decode(picture: Image.Image) -> Image.Image:
    """Decode a picture to 8 bits per channel, rotated upright by its EXIF data.

    16-bit grey pictures keep their upper 8 bits; PIL's own conversion would clip them.
    """
    upright = ImageOps.exif_transpose(picture)
    if upright.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        values = np.asarray(upright)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("its pixels have more than 16 bits; save it with 8 or 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8))
    upright.load()
    return upright
