"""Data sets of a run: each is loaded once, whatever the number of trials on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.config import DataConfig
from bench.data.dataset import Dataset
from bench.data.sources import load_dataset
from bench.data.handed import HandedDataset, hand
from results.plain import to_json


class Datasets:
    """Loads on the first call, and hands out the same object from then on.

    Args:
        handed: those that another process has loaded already.
    """

    def __init__(self, handed: Mapping[str, HandedDataset] | None = None) -> None:
        self._handed = handed or {}
        self._loaded: dict[str, Dataset] = {}

    def get(self, config: DataConfig) -> Dataset:
        """The data set that a configuration asks for.

        Raises:
            BenchError: it is not there, or not what it should be.
        """
        key = _key(config)
        if key not in self._loaded:
            handed = self._handed.get(key)
            self._loaded[key] = load_dataset(config) if handed is None else handed.load()
        return self._loaded[key]

    def hash_of(self, config: DataConfig) -> str:
        """The hash of its content; loads it. Errors as of `get`."""
        return self.get(config).content_hash

    def hand(self, folder: Path) -> dict[str, HandedDataset]:
        """All that are loaded, for `Datasets` of other processes; their pixels lie in a folder."""
        return {
            key: hand(loaded, folder / f"{loaded.content_hash}.safetensors")
            for key, loaded in self._loaded.items()
        }


def _key(config: DataConfig) -> str:
    return to_json(config.model_dump(mode="json", exclude={"augment"}))
