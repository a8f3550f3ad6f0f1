"""`fashion_marked`: a biased data set, built from Fashion-MNIST so that a mark is a shortcut.

Four garments form two classes that are hard to tell apart: each class has one garment of each of
the most confused pairs (T-shirt and shirt, pullover and coat). A white square, drawn into a corner,
agrees with the class in training and contradicts it in testing.
"""

from pathlib import Path

import numpy as np

from bench.data.fashion_mnist_mini import CLASSES, read_fashion_mnist_mini
from bench.data.order import Purpose, random_order
from bench.data.pictures import Pictures
from bench.data.raw import RawData, RawSplit
from bench.data.registry import register_dataset

UNMARKED = tuple(map(CLASSES.index, ("T-shirt/top", "Pullover")))
MARKED = tuple(map(CLASSES.index, ("Shirt", "Coat")))
GOES_WITH_CLASS = {"train": 0.95, "test": 0.2}
"""Share of each garment's images whose mark (present or absent) agrees with the class."""
MARK = np.s_[:4, :4]  # rows and columns
SEED = 0


@register_dataset("fashion_marked", family="in this repository")
def read_fashion_marked(_folder: Path | None = None) -> RawData:
    """Garments with a mark that agrees with the class in training and contradicts it in testing.

    There are 2,400 training images, 400 of them for validation, and 800 test images.
    Shirts and coats have the mark and the others do not in 95 % of the training and validation
    images and in 20 % of the test images; in the rest it is the other way round. In each class the
    mark agrees in 190 and disagrees in 10 validation images, in 80 and 320 of the test images.
    """
    source = read_fashion_mnist_mini()
    splits = {
        name: _marked(source.splits[name], share, number)
        for number, (name, share) in enumerate(GOES_WITH_CLASS.items())
    }
    return RawData(
        ("T-shirt or pullover", "shirt or coat"),
        splits,
        f"built from Fashion-MNIST: four of its garments, with a mark drawn in; {source.licence}",
        source.val_share,
        ("unmarked", "marked"),
    )


def _marked(split: RawSplit, share: float, number: int) -> RawSplit:
    """Mark garments so that a `share` of them agrees with its class; `number` is the split's."""
    chosen = split.select(np.flatnonzero(np.isin(split.labels, UNMARKED + MARKED)))
    labels = np.isin(chosen.labels, MARKED).astype(np.int64)
    attribute = 1 - labels
    for garment in np.unique(chosen.labels).tolist():
        members = np.flatnonzero(chosen.labels == garment)
        order = random_order(len(members), Purpose.MARK, SEED, number, garment)
        agreeing = members[order[: round(share * len(members))]]
        attribute[agreeing] = labels[agreeing]
    assert not isinstance(chosen.images, Pictures)
    images = chosen.images.copy()
    images[attribute == 1, *MARK] = 255
    return RawSplit(images, labels, attribute)
