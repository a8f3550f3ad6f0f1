"""The routing explorer of the page: where each patch of a few test images went.

The records of suite traces for each router's first seed become plain data for a script of the page.
Bytes are base64. Thumbnails are stored once for all routers that saw the same images.
"""

import base64
import io
import json
from collections.abc import Iterator, Sequence
from colorsys import hls_to_rgb
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from PIL import Image

from report.cells import require_asked, why_without
from report.conditions import Entry
from report.marks import older_sentence
from report.study import StudyData
from report.table import Absent, Lacking, captioned, with_warning
from results import ArrayRecord

SUITE, TITLE = "traces", "Where each patch went"
MOST = 8 * 10**6
"""The most characters of data on the page; the rest is left out, snapshots first."""
TOP_CLASSES = 4
"""The number of classes listed for an expert."""
SMALL = 127
"""The most experts for which an expert's number fits into a signed byte."""
PALETTE = (
    *("#ccbb44", "#01665e", "#911eb4", "#88ccee", "#8c510a", "#f1a2a9", "#b2df8a", "#9970ab"),
    *("#6a9f58", "#4477ff"),
)
"""Colours for up to ten experts that colour-blind readers can tell apart."""
GOLDEN, LIGHTNESSES = 0.381966, (0.4, 0.55, 0.7)
CAPTION = (
    "The first test images of each class, the same for all routers and seeds. A patch is coloured "
    "by the expert with the largest combine weight, the more opaque the larger its share; one "
    "without a colour got nothing from any expert. One run of each router (n = 1), since an "
    "expert's number means nothing across seeds."
)
DETAILS = (
    "Opacity goes from the smallest to the largest share of a patch's combine weight that is "
    "shown. Tokens that are not patches are left out."
)


@dataclass(frozen=True)
class Explorer:
    """The routing explorer; `data` for the script is plain and ready for JSON."""

    title: str
    caption: str
    data: dict[str, Any]


def explorer(study: StudyData) -> Explorer | Absent:
    """Return the explorer with the traces of a study, or what the study lacks for it."""
    try:
        traced = {entry: own for entry in study.entries if (own := _of_first_seed(study, entry))}
        if not traced:
            require_asked(study, SUITE)
            raise Lacking(why_without(study, SUITE, "patches on a grid"))
    except Lacking as lacking:
        return Absent("explorer", TITLE, str(lacking), lacking.fine)
    samples: dict[str, int] = {}
    # Routers come before baselines, since readers see the first ones first.
    order = sorted(traced, key=lambda entry: study.is_baseline(entry.system))
    routers = [_router(entry, traced[entry], samples) for entry in order]
    kept, left_out = within(MOST, routers)
    warnings = filter(None, (left_out, older_sentence(study, traced, (SUITE,))))
    caption = reduce(with_warning, warnings, captioned(CAPTION, DETAILS))
    numbers = {m["number"] for router in kept for each in router["layers"] for m in each["maps"]}
    data = {
        "samples": list(map(json.loads, samples)),
        "routers": kept,
        "first": _first_two(study, order[: len(kept)]),
        "colours": {number: colours(number) for number in sorted(numbers)},
    }
    return Explorer(TITLE, caption, data)


def _first_two(study: StudyData, entries: Sequence[Entry]) -> tuple[int, int]:
    """Return the indices of the two entries to show first, of different families if possible."""
    families = [study.families.get(entry.system.router) for entry in entries]
    other = (number for number, family in enumerate(families) if family != families[0])
    return 0, next(other, min(1, len(entries) - 1))


def _of_first_seed(study: StudyData, entry: Entry) -> list[ArrayRecord]:
    """Return the arrays of an entry's lowest seed; empty if no patch was traced."""
    own = [record for record in study.arrays.get(entry, ()) if record.suite == SUITE]
    first = min((record.seed or 0 for record in own), default=0)
    own = [record for record in own if (record.seed or 0) == first]
    return own if any(record.name == "traced_experts" for record in own) else []


def _router(entry: Entry, records: list[ArrayRecord], samples: dict[str, int]) -> dict[str, Any]:
    """Return the traces of one router as plain data, and add its sample to `samples` if new."""
    whole = {record.name: np.asarray(record.values) for record in records if record.layer is None}
    sample = json.dumps(_sample(whole))
    maps = {(record.layer or 0, record.step) for record in records if record.layer is not None}
    by_layer: dict[int, list[dict[str, Any]]] = {}
    # The end of training, which has no step, goes after all snapshots.
    for layer, step in sorted(maps, key=lambda each: (each[0], each[1] is None, each[1] or 0)):
        own = {r.name: np.asarray(r.values) for r in records if (r.layer, r.step) == (layer, step)}
        by_layer.setdefault(layer, []).append({"step": step, **_map(own, whole["traced_labels"])})
    return {
        "name": " · ".join(filter(None, (entry.label, entry.condition.label))),
        "seed": records[0].seed,
        "sample": samples.setdefault(sample, len(samples)),
        "layers": [{"layer": layer, "maps": own} for layer, own in by_layer.items()],
    }


def _sample(whole: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the images as PNG, their labels, and the names of the classes by label."""
    images, labels = whole["traced_images"], whole["traced_labels"].tolist()
    names = list(map(str, whole["class_names"]))
    return {
        "height": images.shape[2],
        "width": images.shape[3],
        "images": list(map(png, images)),
        "labels": labels,
        "classes": {label: names[label] for label in sorted(set(labels))},
    }


def _map(own: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, Any]:
    """Return one layer at one time: each patch's expert and share, and each expert's classes."""
    experts, weights = own["traced_experts"], own["traced_weights"]
    number = weights.shape[1]
    _, rows, columns = experts.shape
    shares = own["traced_shares"]
    shown = shares[experts >= 0]
    return {
        "number": number,
        "rows": rows,
        "columns": columns,
        "low": int(shown.min(initial=255)),
        "high": int(shown.max(initial=0)),
        "experts": encoded(experts.astype(np.int8 if number <= SMALL else "<i2")),
        "shares": encoded(shares),
        "classes": list(top_classes(weights, labels)),
    }


def top_classes(weights: np.ndarray, labels: np.ndarray) -> Iterator[list[tuple[int, float]]]:
    """Yield, for each expert, the classes with most of its combine weight and their shares.

    Args:
        weights: (n, E), the combine weight that each image gives each expert.
        labels: (n,).
    """
    classes = np.unique(labels)
    by_class = np.stack([weights[labels == label].sum(0) for label in classes]).astype(np.float64)
    for column in by_class.T:
        most = np.argsort(-column, kind="stable")[:TOP_CLASSES]
        total = column.sum()
        yield [(int(classes[c]), round(column[c] / total, 3)) for c in most if column[c] > 0]


def colours(number: int) -> list[tuple[int, ...]]:
    """Return a colour for each of `number` experts: (red, green, blue), each up to 255.

    For more than ten experts, hues advance in large steps, so that neighbours differ.
    """
    if number <= len(PALETTE):
        return [tuple(bytes.fromhex(colour[1:])) for colour in PALETTE[:number]]
    turns = ((expert * GOLDEN % 1, LIGHTNESSES[expert % 3]) for expert in range(number))
    made = (hls_to_rgb(hue, lightness, 0.65) for hue, lightness in turns)
    return [tuple(round(255 * part) for part in colour) for colour in made]


def png(image: np.ndarray) -> str:
    """Return a (c, h, w) uint8 image as PNG in base64, in colour if it has three channels."""
    pixels = image.transpose(1, 2, 0) if len(image) == 3 else image[0]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return base64.b64encode(file.getvalue()).decode("ascii")


def encoded(values: np.ndarray) -> str:
    """Return the bytes of an array, its last axis fastest, as base64."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def within(most: int, routers: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Leave out what does not fit into `most` characters, and return a sentence on what that was.

    Snapshots before the end go first, then the last routers; one router is always kept.
    """
    if sum(map(size, routers)) <= most:
        return routers, ""
    sentence = "Snapshots before the end are left out, to keep this page small."
    kept = [_end_alone(router) for router in routers]
    total = np.cumsum([size(router) for router in kept])
    fitting = max(1, int((total <= most).sum()))
    if fitting < len(kept):
        left_out = len(kept) - fitting
        sentence += f" So are {left_out} of {len(kept)} routers and conditions."
    return kept[:fitting], sentence


def size(router: dict[str, Any]) -> int:
    """Return the number of characters that a router's traces take on the page."""
    return len(json.dumps(router))


def _end_alone(router: dict[str, Any]) -> dict[str, Any]:
    layers = [
        {**each, "maps": [own for own in each["maps"] if own["step"] is None]}
        for each in router["layers"]
    ]
    return {**router, "layers": [each for each in layers if each["maps"]]}
