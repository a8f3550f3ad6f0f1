"""Data sets by name, the order in which training sees their images, and augmentation."""

from bench.data.assembly import assemble, channel_histogram, channel_moments
from bench.data.batches import TrainingBatches
from bench.data.dataset import Dataset, DataShape, ShapedData, Split, normalise
from bench.data.files import (
    file_sha256,
    load_weights,
    replacing,
    save_weights,
    sweep,
    write_tensors,
)
from bench.data.order import Purpose, random_bits
from bench.data.pictures import LazyImages, Pictures
from bench.data.raw import RawData, RawSplit, class_fault, image_fault, label_fault, structure_fault
from bench.data.registry import (
    DATASETS,
    Datasets,
    SharedDataset,
    find_dataset,
    has_size,
    load_dataset,
    load_with_shape,
    read_source,
    register_dataset,
)

# Importing a source registers it.
from bench.data import (  # isort: skip
    celeba,
    digits,
    fashion_marked,
    fashion_mnist_mini,
    imagefolder,
    timm_sets,
    torchvision_sets,
)
