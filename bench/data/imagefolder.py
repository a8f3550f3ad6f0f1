"""`imagefolder:PATH`: a user's own images, as PATH/train/CLASS/…, PATH/val/CLASS/…, PATH/test/…."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from bench.data.pictures import Pictures
from bench.data.raw import RawData, RawSplit
from routers.errors import RequestError

SPLITS = ("train", "val", "test")


def read_imagefolder(path: str, data_dir: str | None) -> RawData:
    """The images under a folder; classes are named and numbered by the folders of `train`.

    Args:
        path: of the folder; relative to `data_dir` where that is given.
        data_dir: or None.

    Raises:
        RequestError: no such folder, no `train` in it, a class without images, or a class that
            `train` does not have.
    """
    root = Path(data_dir or "").expanduser() / Path(path).expanduser()
    if not root.is_dir():
        raise RequestError(f"imagefolder:{path}: there is no folder {root.absolute()}")
    if not (root / "train").is_dir():
        there = ", ".join(sorted(entry.name for entry in root.iterdir())) or "nothing"
        raise RequestError(f"imagefolder:{path}: no folder 'train' in {root}; there is {there}")
    files = {split: _images_by_class(root / split) for split in SPLITS if (root / split).is_dir()}
    classes = tuple(files["train"])
    if len(classes) < 2:
        raise RequestError(
            f"{root / 'train'} has too few class folders, {len(classes)}; 2 are needed"
        )
    splits = {name: _split(root / name, by_class, classes) for name, by_class in files.items()}
    return RawData(classes, splits, "your own images")


def _images_by_class(folder: Path) -> dict[str, list[str]]:
    known = Image.registered_extensions()
    readable = {suffix for suffix, kind in known.items() if kind in Image.OPEN}
    return {
        entry.name: sorted(
            os.path.join(parent, name)
            for parent, _, names in os.walk(entry, followlinks=True)
            for name in names
            if os.path.splitext(name)[1].lower() in readable and not name.startswith(".")
        )
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }


def _split(folder: Path, by_class: dict[str, list[str]], classes: tuple[str, ...]) -> RawSplit:
    for name, files in by_class.items():
        if name not in classes:
            raise RequestError(f"class folder {folder / name} has no counterpart in train")
        if not files:
            raise RequestError(f"class folder {folder / name} holds no image")
    labels = [classes.index(name) for name, files in by_class.items() for _ in files]
    paths = [file for files in by_class.values() for file in files]
    return RawSplit(Pictures(paths), np.array(labels, np.int64))
