from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.config.schema import DataConfig
from bench.data import Dataset, load_dataset


@pytest.fixture(autouse=True)
def no_network_and_a_cache_of_its_own(tmp_path, monkeypatch):
    """Isolate tests from the user's folders and from the network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCH_DATA", raising=False)

    def refuse(*_, **__):
        raise OSError("no network here")

    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.fixture
def load() -> Callable[..., Dataset]:
    def load(name, **options):
        return load_dataset(DataConfig(name=name, **options))

    return load


@pytest.fixture
def draw_images(tmp_path) -> Callable[..., Path]:
    """Write random pictures to images/SPLIT/CLASS and return the folder of the splits."""

    def draw(
        counts: dict[str, dict[str, int]], size=(9, 9), colour=False, suffix="png", seed=0
    ) -> Path:
        generator = np.random.default_rng(seed)
        shape = (size[1], size[0], 3) if colour else (size[1], size[0])
        for split, classes in counts.items():
            for name, count in classes.items():
                folder = tmp_path / "images" / split / name
                folder.mkdir(parents=True, exist_ok=True)
                for number in range(count):
                    pixels = generator.integers(0, 256, shape, dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{number:03}.{suffix}")
        return tmp_path / "images"

    return draw
