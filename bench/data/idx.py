"""The IDX format of the MNIST family: a header of big-endian numbers, then the array's bytes."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from routers.errors import RequestError

UNSIGNED_BYTES = 0x08


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in a gzipped IDX file.

    Raises:
        RequestError: the file is not a whole gzipped IDX file of unsigned bytes.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise RequestError(f"{path} cannot be read as a gzipped IDX file: {error}") from None
    if len(content) < 4 or content[:3] != bytes([0, 0, UNSIGNED_BYTES]):
        raise RequestError(f"{path} is not an IDX file of unsigned bytes")
    dimensions = content[3]
    header = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:header], ">u4").tolist())
    if len(content) - header != np.prod(shape):
        raise RequestError(
            f"{path} holds {len(content) - header} bytes after its header, not those of {shape}"
        )
    return np.frombuffer(bytearray(content), np.uint8, offset=header).reshape(shape)
