"""Data sets by name, the order in which training sees them, and their augmentation."""

from bench.data.augment import Augment
from bench.data.dataset import Dataset, Split, normalise
from bench.data.order import training_indices
from bench.data.raw import RawData, RawSplit
from bench.data.registry import DATASETS, register_dataset
from bench.data.sources import load_dataset
from bench.data.training_images import TrainingImages

__all__ = [
    "DATASETS",
    "Augment",
    "Dataset",
    "RawData",
    "RawSplit",
    "Split",
    "TrainingImages",
    "load_dataset",
    "normalise",
    "register_dataset",
    "training_indices",
]
