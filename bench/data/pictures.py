"""Pictures in files: opened, brought to one shape, and decoded when a batch asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from routers.errors import BenchError

Key = str | int
Header = tuple[int, int, bool]  # width, height, whether it is grey
Result = TypeVar("Result")

BLOCK = 16  # pictures that a thread takes at a time
GREY_MODES = {"1", "L", "LA", "I", "I;16", "I;16B", "F"}


def open_file(path: Key) -> Image.Image:
    """The picture in a file; its pixels are read when they are needed."""
    return Image.open(str(path))


@dataclass(frozen=True, eq=False)
class Pictures:
    """A sequence of pictures.

    Attributes:
        keys: the path of each, or a number by which `open` knows it.
        open: from key to picture.
        place: says in messages where numbered pictures are.
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
        """The pictures at `indices`, in that order."""
        return Pictures([self.keys[index] for index in indices.tolist()], self.open, self.place)

    def map(self, function: Callable[[Image.Image], Result]) -> list[Result]:
        """`function` of every picture, in order.

        Files are read in threads, since decoders let go of the interpreter. What `open` knows by
        number is not: it may lie in one shared file.

        Raises:
            BenchError: a picture cannot be read.
        """

        def read(block: Sequence[Key]) -> list[Result]:
            return [self._read(key, function) for key in block]

        if not self.in_files:
            return read(self.keys)
        with ThreadPoolExecutor() as pool:
            blocks = [self.keys[start : start + BLOCK] for start in range(0, len(self), BLOCK)]
            return [result for results in pool.map(read, blocks) for result in results]

    def headers(self) -> dict[Header, Key]:
        """The sizes and kinds that occur, each with the first picture that has it."""
        found: dict[Header, Key] = {}
        headers = self.map(lambda picture: (*picture.size, picture.mode in GREY_MODES))
        for key, header in zip(self.keys, headers, strict=True):
            found.setdefault(header, key)
        return found

    def _read(self, key: Key, function: Callable[[Image.Image], Result]) -> Result:
        try:
            with self.open(key) as picture:
                return function(picture)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            name = f"image {key} of {self.place}" if self.place else key
            raise BenchError(f"{name} cannot be read as an image: {error}") from None


@dataclass(frozen=True, eq=False)
class LazyImages:
    """Pictures that look like a uint8 tensor (n, c, h, w), of which a batch is decoded at a time.

    A picture is scaled (bicubic, antialiased) until its shorter side fits, and the middle is kept.
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
        converted = _to_bytes(picture).convert("L" if channels == 1 else "RGB")
        if converted.size != (width, height):
            converted = ImageOps.fit(converted, (width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(converted)
        return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _to_bytes(picture: Image.Image) -> Image.Image:
    """Grey pictures of 16 bits a pixel keep their upper 8; PIL's own conversion would clip them."""
    if picture.mode in ("I", "I;16", "I;16B"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture
