"""`celeba`: faces with blond or other hair; the protected attribute is sex (arXiv 1411.7766)."""

from pathlib import Path

import numpy as np

from bench.data.dataset import DataShape
from bench.data.files import check_md5, data_folder, downloading
from bench.data.pictures import Pictures
from bench.data.raw import RawData, RawSplit
from bench.data.registry import register_dataset
from routers.errors import RequestError

ATTRIBUTES = "list_attr_celeba.txt"
PARTITION = "list_eval_partition.txt"
IMAGES = "img_align_celeba"
SPLITS = {"train": 0, "val": 1, "test": 2}  # as numbered in the partition file
LICENCE = (
    "non-commercial research only, see https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html; "
    "the label is its attribute Blond_Hair, the protected attribute its Male"
)


@register_dataset(
    "celeba",
    family="downloaded",
    source="arXiv 1411.7766",
    shape=DataShape((3, 64, 64), 2, 162_770),  # the usual size
    square=False,
)
def read_celeba(folder: Path | None) -> RawData:
    """162,770 + 19,867 + 19,962 aligned faces of 178 × 218 pixels, in the authors' splits."""
    import pandas as pd
    from torchvision.datasets import CelebA

    folder = _folder(data_folder(folder))
    for _, md5, name in CelebA.file_list:
        if name in (ATTRIBUTES, PARTITION):
            check_md5(folder / name, {md5})
    # The first line is the number of images, the second names the 40 attributes (1 or -1).
    table = pd.read_csv(folder / ATTRIBUTES, sep=r"\s+", skiprows=1)[["Blond_Hair", "Male"]] == 1
    partition = pd.read_csv(
        folder / PARTITION, sep=" ", header=None, index_col=0, names=["image", "split"]
    )
    images = folder / IMAGES
    present = {file.name for file in images.iterdir()} if images.is_dir() else set()
    missing = [name for name in table.index if name not in present]
    if missing:
        raise RequestError(
            f"{images} lacks {len(missing):,} of the {len(table):,} images of CelebA, such as "
            f"{missing[0]}; unpack {IMAGES}.zip there"
        )
    split_of = partition["split"].reindex(table.index)
    splits = {}
    for name, number in SPLITS.items():
        rows = table[split_of == number]
        blond, male = (rows[each].to_numpy(np.int64) for each in ("Blond_Hair", "Male"))
        splits[name] = RawSplit(Pictures([str(images / file) for file in rows.index]), blond, male)
    return RawData(("not blond", "blond"), splits, LICENCE, attributes=("female", "male"))


def _folder(root: Path) -> Path:
    """Return the folder of the files: `root`, or the one that torchvision creates in it."""
    from torchvision.datasets import CelebA

    needed = (ATTRIBUTES, PARTITION, IMAGES)
    downloaded = root / CelebA.base_folder
    if any((root / name).exists() for name in needed):
        return root
    if not all((downloaded / name).exists() for name in needed):
        with downloading("CelebA", (ATTRIBUTES, PARTITION, f"{IMAGES}/"), downloaded):
            CelebA(root, download=True)
    return downloaded
