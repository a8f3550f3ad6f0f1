"""Data sets by name, the order in which training sees them, and their augmentation."""

from bench.data.augment import Augment
from bench.data.dataset import Dataset, Split, normalise
from bench.data.order import training_indices
from bench.data.sources import list_datasets, load_dataset
from bench.data.training_images import TrainingImages

__all__ = [
    "Augment",
    "Dataset",
    "Split",
    "TrainingImages",
    "list_datasets",
    "load_dataset",
    "normalise",
    "training_indices",
]
