"""`imagefolder:PATH`: a user's own images, as PATH/train/CLASS/…, PATH/val/CLASS/…, PATH/test/….

The validation folder may also be named `valid` or `validation`.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from bench.data.files import expanded
from bench.data.pictures import Pictures
from bench.data.raw import RawData, RawSplit
from bench.data.registry import register_dataset
from routers.errors import RequestError

EXAMPLES = 3
FOLDER_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


@register_dataset("imagefolder:PATH", family="your own files")
def read_imagefolder(folder: Path | None, path: str) -> RawData:
    """Your own images, in PATH/train/CLASS/… and, if you like, PATH/val/CLASS/…, PATH/test/CLASS/….

    Classes are named and numbered by the folders of `train`. A relative PATH is relative to
    `data.data_dir`, else to the current folder. These are errors: no such folder, no `train` in it,
    two folders for one split, a class without images, or one that `train` does not have.
    """
    name = f"imagefolder:{path}"
    root = (folder or Path()) / expanded(path)
    if not root.is_dir():
        raise RequestError(f"{name}: there is no folder {root.absolute()}")
    folders = split_folders(name, root, FOLDER_NAMES)
    if "train" not in folders:
        there = ", ".join(sorted(entry.name for entry in root.iterdir())) or "nothing"
        raise RequestError(f"{name}: no folder 'train' in {root}; available: {there}")
    unread = [entry.name for entry in _shown_folders(root) if entry not in folders.values()]
    if unread:
        read = ", ".join(folder.name for folder in folders.values())
        _warn(f"{name}: folders that are not read: {', '.join(unread)} (read are {read})")
    by_split = {split: _shown_folders(folder) for split, folder in folders.items()}
    classes = tuple(folder.name for folder in by_split["train"])
    if len(classes) < 2:
        raise RequestError(
            f"{folders['train']} has too few class folders, {len(classes)}; 2 are needed"
        )
    every = [folder for of_split in by_split.values() for folder in of_split]
    images = ImageFiles(root, every, _is_readable)
    images.warn(name)
    splits = {
        split: _split({folder: images.files[folder] for folder in of_split}, classes)
        for split, of_split in by_split.items()
    }
    return RawData(classes, splits, "your own images")


def split_folders(name: str, root: Path, names: Mapping[str, tuple[str, ...]]) -> dict[str, Path]:
    """Return the folder of each split that has one of `names`; `RequestError` if it has several."""
    folders = {}
    for split, possible in names.items():
        there = [root / each for each in possible if (root / each).is_dir()]
        if len(there) > 1:
            both = " and ".join(folder.name for folder in there)
            raise RequestError(f"{name}: {root} has {both}, and each would be {split}; keep one")
        if there:
            folders[split] = there[0]
    return folders


def _shown_folders(folder: Path) -> list[Path]:
    entries = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted(entry for entry in entries if entry.is_dir())


def _is_readable(name: str) -> bool:
    kind = _kinds().get(os.path.splitext(name)[1].lower())
    return kind in Image.OPEN and not name.startswith(".")


_kinds = cache(Image.registered_extensions)  # suffix -> Pillow's name of the format


def _split(by_class: Mapping[Path, list[str]], classes: tuple[str, ...]) -> RawSplit:
    for folder, files in by_class.items():
        if folder.name not in classes:
            raise RequestError(f"class folder {folder} has no counterpart in train")
        if not files:
            raise RequestError(f"class folder {folder} holds no image")
    labels = [classes.index(folder.name) for folder, files in by_class.items() for _ in files]
    paths = [file for files in by_class.values() for file in files]
    return RawSplit(Pictures(paths), np.array(labels, np.int64))


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


class ImageFiles:
    """The image files in some folders of a data set, searched recursively.

    A file with several paths is listed under its real path if that is in one of the folders, else
    under the first link to it.

    Args:
        root: the folder of the data set.
        folders: where to look; files that several of them link to go to the first of these.
        is_image: tells by a file's name whether it is an image.

    Attributes:
        files: the sorted paths of the images, by the requested folder.
        circular: links to a folder above them, which are not followed.
        repeated: links to files or folders that are read elsewhere, which are not read again.
        leaving: links out of `root`, which are followed.
    """

    def __init__(
        self, root: Path, folders: Iterable[Path], is_image: Callable[[str], bool]
    ) -> None:
        self._root, self._is_image = root, is_image
        self.files: dict[Path, list[str]] = {folder: [] for folder in folders}
        self.circular: list[str] = []
        self.repeated: list[str] = []
        self.leaving: list[str] = []
        # Links are deferred until all real files have been read.
        self._links: deque[tuple[Path, str]] = deque()
        self._seen: set[str] = set()
        real_root = os.path.realpath(root)
        # Nested folders first, so that they keep their own files.
        for folder in sorted(self.files, key=lambda folder: -len(folder.parts)):
            place = os.path.normpath(os.path.join(real_root, os.path.relpath(folder, root)))
            if os.path.realpath(folder) == place:
                self._read(folder, str(folder))
            else:
                self._links.append((folder, str(folder)))
        self._follow_links(real_root)
        for files in self.files.values():
            files.sort()

    def warn(self, name: str) -> None:
        """Print to stderr how the links of the data set of this name were treated."""
        for links, what in (
            (self.circular, "lead in a circle and are not followed"),
            (self.repeated, "lead to images that are read elsewhere and are not read again"),
            (self.leaving, f"lead out of {self._root}, and their images are read"),
        ):
            if links:
                _warn(f"{name}: symbolic links that {what}: {self.examples(links)}")

    def examples(self, links: list[str]) -> str:
        """Describe the first links, each with its target, and how many more there are."""
        shown = ", ".join(f"{link} → {os.path.realpath(link)}" for link in links[:EXAMPLES])
        more = len(links) - EXAMPLES
        return f"{shown} and {more} more" if more > 0 else shown

    def _read(self, folder: Path, start: str) -> None:
        """Add the images under `start`, links aside, to those of a folder."""
        real = os.path.realpath(start)
        self._seen.add(real)
        with os.scandir(start) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        for entry in ordered:
            place = os.path.join(real, entry.name)
            if entry.is_symlink():
                self._links.append((folder, entry.path))
            elif place in self._seen:
                continue
            elif entry.is_dir():
                self._read(folder, entry.path)
            elif self._is_image(entry.name):
                self._add(folder, entry.path, place)

    def _follow_links(self, real_root: str) -> None:
        """Read the targets of the links, and of the links in them, until none are left."""
        while self._links:
            folder, link = self._links.popleft()
            target = os.path.realpath(link)
            is_folder = os.path.isdir(link)
            if not is_folder and not self._is_image(os.path.basename(link)):
                continue
            if is_folder and _is_within(os.path.realpath(os.path.dirname(link)), target):
                self.circular.append(link)
            elif target in self._seen:
                self.repeated.append(link)
            else:
                if not _is_within(target, real_root):
                    self.leaving.append(link)
                if is_folder:
                    self._read(folder, link)
                else:
                    self._add(folder, link, target)

    def _add(self, folder: Path, path: str, real: str) -> None:
        self._seen.add(real)
        self.files[folder].append(path)


def _is_within(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder
