"""The images under folders, each real file once, whatever symbolic links lead to it."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

EXAMPLES = 3


@dataclass
class FoundImages:
    """The image files of some folders of a data set.

    Attributes:
        root: the folder of the data set.
        files: the paths of the images, by the folder that was asked for, sorted.
        circular: links to a folder above them, which are not followed.
        repeated: links to what is read elsewhere, which is not read again.
        leaving: links out of `root`, which are followed.
    """

    root: Path
    files: dict[Path, list[str]]
    circular: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    leaving: list[str] = field(default_factory=list)

    def warn(self, name: str) -> None:
        """Say on stderr what was made of the links of the data set of this name."""
        for links, what in (
            (self.circular, "lead in a circle and are not followed"),
            (self.repeated, "lead to images that are read elsewhere and are not read again"),
            (self.leaving, f"lead out of {self.root}, and their images are read"),
        ):
            if links:
                message = f"{name}: symbolic links that {what}: {self.examples(links)}"
                print(f"warning: {message}", file=sys.stderr)

    def examples(self, links: list[str]) -> str:
        """The first links, each with where it leads, and how many more there are."""
        shown = ", ".join(f"{link} → {os.path.realpath(link)}" for link in links[:EXAMPLES])
        more = len(links) - EXAMPLES
        return f"{shown} and {more} more" if more > 0 else shown


def find_images(
    root: Path, folders: Iterable[Path], is_image: Callable[[str], bool]
) -> FoundImages:
    """Look for images in folders of `root` and all that is in them.

    A file that can be reached in several ways is found where it really lies, if that is in one of
    the folders; else by the first link to it.

    Args:
        root: the folder of the data set.
        folders: where to look; the first ones get what several of them link to.
        is_image: of the name of a file.
    """
    search = _Search(FoundImages(root, {folder: [] for folder in folders}), is_image)
    real_root = os.path.realpath(root)
    # Folders inside others first: what is in them is theirs.
    for folder in sorted(search.found.files, key=lambda folder: -len(folder.parts)):
        place = os.path.normpath(os.path.join(real_root, os.path.relpath(folder, root)))
        if os.path.realpath(folder) == place:
            search.read(folder, str(folder))
        else:
            search.links.append((folder, str(folder)))
    search.follow_links(real_root)
    for files in search.found.files.values():
        files.sort()
    return search.found


class _Search:
    """A walk over real folders, which puts links aside until all that is real has been read."""

    def __init__(self, found: FoundImages, is_image: Callable[[str], bool]) -> None:
        self.found, self._is_image = found, is_image
        self.links: deque[tuple[Path, str]] = deque()
        self._seen: set[str] = set()

    def read(self, folder: Path, start: str) -> None:
        """Add the images under a path that lie there really to those of a folder."""
        real = os.path.realpath(start)
        self._seen.add(real)
        with os.scandir(start) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        for entry in ordered:
            place = os.path.join(real, entry.name)
            if entry.is_symlink():
                self.links.append((folder, entry.path))
            elif place in self._seen:
                continue
            elif entry.is_dir():
                self.read(folder, entry.path)
            elif self._is_image(entry.name):
                self._add(folder, entry.path, place)

    def follow_links(self, real_root: str) -> None:
        """Read what the links lead to, and the links in it, until there are none left."""
        while self.links:
            folder, link = self.links.popleft()
            target = os.path.realpath(link)
            is_folder = os.path.isdir(link)
            if not is_folder and not self._is_image(os.path.basename(link)):
                continue
            if is_folder and _is_within(os.path.realpath(os.path.dirname(link)), target):
                self.found.circular.append(link)
            elif target in self._seen:
                self.found.repeated.append(link)
            else:
                if not _is_within(target, real_root):
                    self.found.leaving.append(link)
                if is_folder:
                    self.read(folder, link)
                else:
                    self._add(folder, link, target)

    def _add(self, folder: Path, path: str, real: str) -> None:
        self._seen.add(real)
        self.found.files[folder].append(path)


def _is_within(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder
