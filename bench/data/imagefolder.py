"""`imagefolder:PATH`: a user's own images, as PATH/train/CLASS/…, PATH/val/CLASS/…, PATH/test/….

The validation split may be named `valid` or `validation` as well.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from bench.data.folders import expanded
from bench.data.links import find_images
from bench.data.pictures import Pictures
from bench.data.raw import RawData, RawSplit
from bench.data.registry import register_dataset
from routers.errors import RequestError

FOLDER_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


@register_dataset("imagefolder:PATH", family="your own files")
def read_imagefolder(folder: Path | None, path: str) -> RawData:
    """Your own images, in PATH/train/CLASS/… and, if you like, PATH/val/CLASS/…, PATH/test/CLASS/….

    Classes are named and numbered by the folders of `train`. A relative PATH is relative to
    `data.data_dir`, else to the current folder. What is refused: no such folder, no `train` in it,
    two folders for one split, a class without images, or one that `train` does not have.
    """
    name = f"imagefolder:{path}"
    root = (folder or Path()) / expanded(path)
    if not root.is_dir():
        raise RequestError(f"{name}: there is no folder {root.absolute()}")
    folders = split_folders(name, root, FOLDER_NAMES)
    if "train" not in folders:
        there = ", ".join(sorted(entry.name for entry in root.iterdir())) or "nothing"
        raise RequestError(f"{name}: no folder 'train' in {root}; there is {there}")
    _warn_of_unread(name, root, folders)
    by_split = {split: _class_folders(folder) for split, folder in folders.items()}
    classes = tuple(folder.name for folder in by_split["train"])
    if len(classes) < 2:
        raise RequestError(
            f"{folders['train']} has too few class folders, {len(classes)}; 2 are needed"
        )
    every = [folder for of_split in by_split.values() for folder in of_split]
    found = find_images(root, every, _is_readable)
    found.warn(name)
    splits = {
        split: _split({folder: found.files[folder] for folder in of_split}, classes)
        for split, of_split in by_split.items()
    }
    return RawData(classes, splits, "your own images")


def split_folders(name: str, root: Path, names: Mapping[str, tuple[str, ...]]) -> dict[str, Path]:
    """The folder of each split that has one, by the names that it may have.

    Raises:
        RequestError: a split has two.
    """
    found = {}
    for split, possible in names.items():
        there = [root / each for each in possible if (root / each).is_dir()]
        if len(there) > 1:
            both = " and ".join(folder.name for folder in there)
            raise RequestError(f"{name}: {root} has {both}, and each would be {split}; keep one")
        if there:
            found[split] = there[0]
    return found


def _warn_of_unread(name: str, root: Path, folders: Mapping[str, Path]) -> None:
    unread = sorted(
        entry.name
        for entry in root.iterdir()
        if entry.is_dir() and entry not in folders.values() and not entry.name.startswith(".")
    )
    if unread:
        read = ", ".join(folder.name for folder in folders.values())
        message = f"{name}: folders that are not read: {', '.join(unread)} (read are {read})"
        print(f"warning: {message}", file=sys.stderr)


def _class_folders(folder: Path) -> list[Path]:
    return [
        entry
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    ]


def _is_readable(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _readable() and not name.startswith(".")


@cache
def _readable() -> set[str]:
    """The suffixes of the files that Pillow reads."""
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def _split(by_class: Mapping[Path, list[str]], classes: tuple[str, ...]) -> RawSplit:
    for folder, files in by_class.items():
        if folder.name not in classes:
            raise RequestError(f"class folder {folder} has no counterpart in train")
        if not files:
            raise RequestError(f"class folder {folder} holds no image")
    labels = [classes.index(folder.name) for folder, files in by_class.items() for _ in files]
    paths = [file for files in by_class.values() for file in files]
    return RawSplit(Pictures(paths), np.array(labels, np.int64))
