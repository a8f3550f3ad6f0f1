"""Data sets of a run: each is loaded once, whatever the number of trials on it."""

from __future__ import annotations

from bench.config import DataConfig
from bench.data import Dataset, load_dataset
from bench.fingerprint import canonical


class Datasets:
    """Loads on the first call, and hands out the same object from then on."""

    def __init__(self) -> None:
        self._loaded: dict[str, Dataset] = {}

    def get(self, config: DataConfig) -> Dataset:
        """The data set that a configuration asks for.

        Raises:
            BenchError: it is not there, or not what it should be.
        """
        key = canonical(config.model_dump(mode="json", exclude={"augment"}))
        if key not in self._loaded:
            self._loaded[key] = load_dataset(config)
        return self._loaded[key]

    def hash_of(self, config: DataConfig) -> str:
        """The hash of its content; loads it. Errors as of `get`."""
        return self.get(config).content_hash
