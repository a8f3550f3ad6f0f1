"""`timm:NAME`: data sets of timm's `create_dataset`, as `timm:folder` or `timm:torch/kmnist`."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import IterableDataset

from bench.data.dataset import DataShape
from bench.data.files import data_folder
from bench.data.imagefolder import ImageFiles, split_folders
from bench.data.pictures import Pictures
from bench.data.raw import RawData, RawSplit
from bench.data.registry import KNOWN_SHAPES, register_dataset
from routers.errors import RequestError

# torchvision's sets that have a test split but no validation split that timm could return.
TRAIN_AND_TEST = {
    f"torch/{name}"
    for name in ("mnist", "kmnist", "qmnist", "fashion_mnist", "cifar10", "cifar100")
}
FOLDER_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "eval", "evaluation"),
    "test": ("test",),
}
STREAM_LIMIT = 2 * 2**30  # bytes of decoded pixels
KNOWN_SHAPES["timm:torch/imagenet"] = DataShape((3, 224, 224), 1000, 1_271_167)  # the usual size


@register_dataset("timm:NAME", family="your own files")
def read_timm(folder: Path | None, name: str) -> RawData:
    """A data set that timm can read, with whichever splits it has.

    A NAME without a prefix (`folder`) is an image folder or one tar file, at `data.data_dir`.
    `torch/…` is read from or downloaded to `data.data_dir`, else the default data folder; `hfds/…`,
    `tfds/…` and `wds/…` need the libraries that timm asks for. These are errors: a stream too large
    for memory, labels that are not class numbers, and a class that is not in the training split.
    """
    prefix, separator, _ = name.lower().partition("/")
    if not separator:
        datasets = _folders(name, folder)
    elif prefix == "torch":
        root, download = data_folder(folder), name.lower() in TRAIN_AND_TEST
        second = {"test": "test"} if download else {"val": "validation"}
        datasets = {
            split: _create(name, root, split=theirs, download=download)
            for split, theirs in ({"train": "train"} | second).items()
        }
    else:
        datasets = _prefixed(name, folder)
    names = {split: _class_names(dataset) for split, dataset in datasets.items()}
    raw = {split: _read(f"timm:{name}", dataset) for split, dataset in datasets.items()}
    count = int(raw["train"].labels.max()) + 1
    classes = tuple(names["train"].get(label, str(label)) for label in range(count))
    splits = {split: _renumber(part, names[split], classes) for split, part in raw.items()}
    return RawData(classes, splits, "see the data set's own")


def _folders(name: str, root: Path | None) -> dict[str, Any]:
    """Open each split that has a folder; for one without, timm would read the whole root."""
    from timm.data.readers.img_extensions import is_img_extension

    if root is None or not root.exists():
        raise RequestError(
            f"timm:{name} reads the images at data.data_dir, and there is nothing at {root}"
            if root
            else f"timm:{name} needs data.data_dir, the folder of its images"
        )
    parts = split_folders(f"timm:{name}", root, FOLDER_NAMES)
    parts.setdefault("train", root)
    if not root.is_dir():
        return {"train": _create(name, root, search_split=False)}
    images = ImageFiles(root, parts.values(), lambda file: is_img_extension(Path(file).suffix))
    if images.circular:
        # timm would follow them and find each image once for every path that leads to it.
        raise RequestError(
            f"timm:{name}: symbolic links lead in a circle: {images.examples(images.circular)}; "
            "remove them, or use imagefolder:PATH, which does not follow them"
        )
    images.warn(f"timm:{name}")
    datasets = {split: _create(name, folder, search_split=False) for split, folder in parts.items()}
    for split, folder in parts.items():
        once = set(images.files[folder])
        reader = datasets[split].reader
        reader.samples = [sample for sample in reader.samples if sample[0] in once]
    return datasets


def _prefixed(name: str, root: Path | None) -> dict[str, Any]:
    datasets = {"train": _create(name, root, split="train")}
    for split, theirs in (("val", "validation"), ("test", "test")):
        try:
            datasets[split] = _create(name, root, split=theirs)
        except RequestError as error:
            # The libraries that timm calls have no exception type for a missing split.
            if theirs not in str(error):
                raise
    return datasets


def _create(name: str, root: Path | None, **options: Any) -> Any:
    from timm.data.dataset_factory import create_dataset

    try:
        return create_dataset(name, root=None if root is None else str(root), **options)
    except (AssertionError, RuntimeError, ValueError, OSError, ImportError) as error:
        raise RequestError(f"timm cannot open {name!r} at {root}: {error}") from None


def _class_names(dataset: Any) -> dict[int, str]:
    for holder in (getattr(dataset, "reader", None), dataset):
        for attribute in ("class_to_idx", "class_name_to_idx"):
            if numbers := getattr(holder, attribute, None):
                return {int(label): str(name) for name, label in reversed(numbers.items())}
    return {}


def _read(name: str, dataset: Any) -> RawSplit:
    if isinstance(dataset, IterableDataset):
        return _read_stream(name, dataset)
    reader = getattr(dataset, "reader", dataset)
    files = getattr(reader, "samples", getattr(reader, "imgs", None))
    if isinstance(files, list):
        return RawSplit(Pictures([file for file, _ in files]), _labels(name, (y for _, y in files)))
    labels = _labels(name, (reader[index][1] for index in range(len(reader))))
    return RawSplit(Pictures(range(len(labels)), partial(_open, reader), name), labels)


def _read_stream(name: str, stream: Iterable[tuple[Any, int]]) -> RawSplit:
    images: list[Image.Image] = []
    labels, size = [], 0
    for image, label in stream:
        picture = _picture(image)
        size += picture.width * picture.height * len(picture.getbands())
        if size > STREAM_LIMIT:
            raise RequestError(
                f"{name} is a stream of more than {STREAM_LIMIT >> 30} GiB of pixels, which does "
                "not fit in memory; save it as an image folder and use imagefolder:PATH"
            )
        images.append(picture)
        labels.append(label)
    pictures = Pictures(range(len(images)), images.__getitem__, name)
    return RawSplit(pictures, _labels(name, labels))


def _open(reader: Any, index: int) -> Image.Image:
    return _picture(reader[index][0])


def _picture(image: Any) -> Image.Image:
    """Return the picture that a reader returned, opening it if it is a file."""
    return image if isinstance(image, Image.Image) else Image.open(image)


def _labels(name: str, labels: Iterable[Any]) -> np.ndarray:
    numbers = np.array(list(labels))
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or (len(numbers) and numbers.min() < 0):
        raise RequestError(f"{name} does not label every image with one class number")
    return numbers.astype(np.int64)


def _renumber(split: RawSplit, names: dict[int, str], classes: tuple[str, ...]) -> RawSplit:
    """Renumber labels by class name, since each split may have its own numbering."""
    numbers = {name: label for label, name in enumerate(classes)}
    labels = [names.get(label, str(label)) for label in split.labels.tolist()]
    unknown = sorted(set(labels) - set(numbers))
    if unknown:
        raise RequestError(f"class {unknown[0]!r} occurs in a split, but not in training")
    return RawSplit(split.images, np.array([numbers[label] for label in labels], np.int64))
