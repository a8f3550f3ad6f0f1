"""Checks of data sets: what the function returns, and the splits that the bench makes from it."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from bench.check.cases import Setting
from bench.check.outcome import Failed, WrongReturn
from bench.check.reference import require
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
from routers import RequestError

BATCH = 256  # images hashed at a time
SIZE = 224  # pixels per side, if images are not squares of one size


@dataclass(frozen=True)
class Subject(Setting):
    """A data set by the name that a request would give."""

    name: str

    @property
    def label(self) -> str:
        return self.name

    @cached_property
    def raw(self) -> RawData:
        """What the data set's function returns."""
        return read_source(self.name)

    @cached_property
    def made(self) -> Dataset:
        """The assembled data set; images that are squares of one size stay as they are."""
        return self.assembled(self.raw)

    def assembled(self, raw: RawData) -> Dataset:
        """Return the data set that is assembled from this content."""
        try:
            return assemble(self.name, raw)
        except RequestError:
            return assemble(self.name, raw, image_size=SIZE)


def runs(subject: Subject) -> str:
    """Its function returns classes and splits, one of which is `train`."""
    _require_none(structure_fault(subject.raw), WrongReturn)
    sizes = ", ".join(f"{name} {len(split.labels):,}" for name, split in subject.raw.splits.items())
    return f"{len(subject.raw.classes)} classes; images: {sizes}"


def names(subject: Subject) -> None:
    """There are two classes or more, each with a name of its own."""
    _require_none(class_fault(subject.raw))


def images(subject: Subject) -> None:
    """Images are bytes, grey or in colour, in an array or in files that can be read."""
    _require_none(image_fault(subject.raw))
    for split in subject.raw.splits.values():
        if isinstance(split.images, Pictures):
            _require_none(next(iter(split.images.faults()), None))


def labels(subject: Subject) -> None:
    """Each image has one label, an integer from 0 to the number of classes minus one."""
    _require_none(label_fault(subject.raw))


def splits(subject: Subject) -> str:
    """It has, or can be split into, training, validation and test images of every class."""
    return ", ".join(f"{name} {len(split):,}" for name, split in subject.made.splits.items())


def repeatable(subject: Subject) -> str:
    """Loading it twice gives the same bits."""
    first = subject.made.content_hash
    again = subject.assembled(read_source(subject.name)).content_hash
    require(
        again == first,
        f"its content hash is {first[:12]}, then {again[:12]}; "
        "draw from a generator with a fixed seed, and read files in a fixed order",
    )
    return f"content hash {first[:12]}"


def apart(subject: Subject) -> None:
    """No image of one split occurs in another, pixel for pixel."""
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


def _digests(split: Split) -> dict[bytes, int]:
    """Return the index at which each image first occurs, by the hash of its pixels."""
    first: dict[bytes, int] = {}
    images = (image for batch, _ in split.batches(BATCH) for image in batch.contiguous().numpy())
    for index, image in enumerate(images):
        first.setdefault(hashlib.sha256(image.tobytes()).digest(), index)
    return first


def _require_none(fault: str | None, failure: type[Failed] = Failed) -> None:
    require(fault is None, fault or "", failure)
