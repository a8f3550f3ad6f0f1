"""One look per router name: the same colour, marker, hatch and line in every figure.

The hues are Okabe and Ito's, which stay apart for colour-blind readers (yellow is left out: it
vanishes on white). Nulls and baselines are grey, told apart by line and marker. A name that is not
listed gets a look from its hash, so that it is the same in every report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

Dashes = tuple[float, tuple[float, ...]]

SOLID: Dashes = (0.0, ())
DASHED: Dashes = (0.0, (4.0, 1.6))
DOTTED: Dashes = (0.0, (1.0, 1.4))
DASHDOT: Dashes = (0.0, (4.0, 1.4, 1.0, 1.4))

BLUE, SKY, GREEN = "#0072b2", "#56b4e9", "#009e73"
ORANGE, VERMILION, PURPLE = "#e69f00", "#d55e00", "#cc79a7"
GREY = "#7f7f7f"


@dataclass(frozen=True)
class Look:
    """How a router is drawn. `dashes` is matplotlib's (offset, on-off points)."""

    colour: str
    marker: str
    hatch: str
    dashes: Dashes


KNOWN: dict[str, Look] = {
    "softmax_token_choice": Look(BLUE, "o", "", SOLID),
    "sinkhorn_token_choice": Look(SKY, "s", "////", DASHED),
    "softmax_expert_choice": Look(VERMILION, "^", "", SOLID),
    "sinkhorn_expert_choice": Look(ORANGE, "v", "////", DASHED),
    "sparsity_constrained_expert_choice": Look(PURPLE, "D", "||||", DASHDOT),
    "soft_moe": Look(GREEN, "P", "", SOLID),
    "dense": Look(GREY, "X", "", SOLID),
    "dense_params": Look(GREY, "p", "////", DASHED),
    "random": Look(GREY, "<", "\\\\\\\\", DOTTED),
    "hash": Look(GREY, ">", "xxxx", DASHDOT),
    "frozen": Look(GREY, "h", "----", (0.0, (6.0, 1.4, 1.0, 1.4, 1.0, 1.4))),
}

_STROKES = [("d", "++", DOTTED), ("*", "xx", (0.0, (2.0, 1.0))), ("H", "---", (0.0, (8.0, 2.0)))]
_SPARE = [
    Look(colour, marker, hatch, dashes)
    for (marker, hatch, dashes), colour in product(
        _STROKES, [PURPLE, GREEN, BLUE, VERMILION, ORANGE, SKY]
    )
]


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name; two unlisted names of one study never share one (up to 18 of them)."""
    chosen = {name: KNOWN[name] for name in names if name in KNOWN}
    unlisted = sorted(set(names) - set(chosen))
    for name in unlisted:
        start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        turns = [_SPARE[(start + turn) % len(_SPARE)] for turn in range(len(_SPARE))]
        free = [look for look in turns if look not in chosen.values()]
        chosen[name] = (free or turns)[0]
    return chosen
