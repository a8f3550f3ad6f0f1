"""Checks of data sets: what the function returns, and the splits that the bench makes of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from bench.check.outcome import Failed
from bench.check.reference import require, require_returned
from bench.data import (
    Dataset,
    Pictures,
    RawData,
    Split,
    assemble,
    class_fault,
    image_fault,
    label_fault,
    read_source,
    structure_fault,
)
from results.text import counted
from routers import Entry, RequestError

BATCH = 256  # images that are hashed at a time
SIZE = 224  # pixels a side, where images are not squares of one size


@dataclass(frozen=True)
class Subject:
    """A data set by the name that a request would give."""

    entry: Entry
    name: str

    @property
    def label(self) -> str:
        """The name under which a failure is reported."""
        return self.name

    @cached_property
    def raw(self) -> RawData:
        """The result of the data set's function."""
        return read_source(self.name)

    @cached_property
    def made(self) -> Dataset:
        """The assembled data set, with images as they are where they are squares of one size."""
        return self.assembled(self.raw)

    def assembled(self, raw: RawData) -> Dataset:
        """Return the data set that this content makes."""
        try:
            return assemble(self.name, raw)
        except RequestError:
            return assemble(self.name, raw, image_size=SIZE)


def runs(subject: Subject) -> str:
    """Its function returns classes and splits, of which one is `train`."""
    fault = structure_fault(subject.raw)
    require_returned(fault is None, fault or "")
    sizes = ", ".join(f"{name} {len(split.labels):,}" for name, split in subject.raw.splits.items())
    return f"{len(subject.raw.classes)} classes; images: {sizes}"


def names(subject: Subject) -> str:
    """There are two classes or more, each with a name of its own."""
    return _without(class_fault(subject.raw))


def images(subject: Subject) -> str:
    """Images are bytes, grey or in colour, in an array or in files that can be read."""
    unreadable = (
        fault
        for split in subject.raw.splits.values()
        if isinstance(split.images, Pictures)
        for fault in split.images.faults()
    )
    return _without(image_fault(subject.raw) or next(unreadable, None))


def labels(subject: Subject) -> str:
    """There is one label an image, a whole number from 0 to the number of classes less one."""
    return _without(label_fault(subject.raw))


def splits(subject: Subject) -> str:
    """It has, or is split into, training, validation and test images of every class."""
    sizes = {name: len(split) for name, split in subject.made.splits.items()}
    return ", ".join(f"{name} {size:,}" for name, size in sizes.items())


def repeatable(subject: Subject) -> str:
    """Loaded twice, it has the same bits."""
    again = subject.assembled(read_source(subject.name))
    require(
        again.content_hash == subject.made.content_hash,
        f"its content hash is {subject.made.content_hash[:12]}, then {again.content_hash[:12]}; "
        "draw from a generator with a fixed seed, and read files in a fixed order",
    )
    return f"content hash {subject.made.content_hash[:12]}"


def apart(subject: Subject) -> str:
    """No image of one split is in another, pixel by pixel."""
    seen: dict[str, dict[bytes, int]] = {}
    for name, split in subject.made.splits.items():
        own = _digests(split)
        for other, digests in seen.items():
            both = own.keys() & digests.keys()
            if both:
                first = min(both, key=own.__getitem__)
                raise Failed(
                    f"{counted(len(both), 'image')} of {name} {'is' if len(both) == 1 else 'are'} "
                    f"in {other} as well: image {own[first]} of {name} is image {digests[first]} "
                    f"of {other}"
                )
        seen[name] = own
    return ""


def _digests(split: Split) -> dict[bytes, int]:
    """Return the first index of each image that occurs, by the hash of its pixels."""
    first: dict[bytes, int] = {}
    index = 0
    for batch, _ in split.batches(BATCH):
        for image in batch.contiguous().numpy():
            first.setdefault(hashlib.sha256(image.tobytes()).digest(), index)
            index += 1
    return first


def _without(fault: str | None) -> str:
    if fault:
        raise Failed(fault)
    return ""
