"""Data sets by name: each is one function, of this folder, of a user's file or of a package.

    @register_dataset("shapes", family="mine", source="where it was published")
    def shapes(folder: Path | None) -> RawData:
        \"\"\"A thousand drawings of circles and squares.\"\"\"
        images, labels = draw()  # uint8 (n, height, width) or (n, height, width, 3); int (n,)
        return RawData.from_arrays(images, labels, ("circle", "square"))

The function is given the folder that `data.data_dir` names, or None. One whose name has a colon, as
`imagefolder:PATH`, takes what a request puts there as its second argument. Fingerprints hold the
content of what it returns, not its source.
"""

from __future__ import annotations

from routers.registry import Entry, Registry

DATASETS = Registry("dataset")
register_dataset = DATASETS.register


def find_dataset(name: str) -> tuple[Entry, tuple[str, ...]]:
    """Return the data set of a name, and the arguments that the name brings.

    Args:
        name: as `digits`, or as `imagefolder:/my/images`, which brings one argument.

    Raises:
        RequestError: there is no such data set.
    """
    prefix, colon, argument = name.partition(":")
    for entry in DATASETS.entries():
        own, takes, _ = entry.name.partition(":")
        if colon and takes and own == prefix:
            return entry, (argument,)
    return DATASETS.get(name), ()
