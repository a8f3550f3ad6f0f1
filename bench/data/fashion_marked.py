"""`fashion_marked`: a biased data set, built from Fashion-MNIST so that a mark is a shortcut.

Four garments make two classes that are hard to tell apart: of the pairs that are confused most,
T-shirt and shirt, pullover and coat, each class has one. A white square in a corner, drawn in here,
goes with the class in training and against it in testing.
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
"""Share of each garment's images whose mark, there or not, agrees with the class."""
MARK = np.s_[:4, :4]  # rows and columns
SEED = 0


@register_dataset("fashion_marked", family="in this repository")
def read_fashion_marked(_folder: Path | None = None) -> RawData:
    """Garments with a mark that goes with the class in training and against it in testing.

    2,400 training images, of which 400 are for validation, and 800 test images.
    Shirts and coats have the mark and the others do not: in 95 % of the training and validation
    images, in 20 % of the test images. Of each class this leaves 190 and 10 validation images, with
    the mark that goes with it and against it, and 80 and 320 test images.
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
    """Mark garments, a `share` of them as their class is; `number` is that of the split."""
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
