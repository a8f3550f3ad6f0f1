"""The style of every figure: its size, type, ink and grid, and fonts for every script.

Figures are drawn at their printed size: a point of type is a point on paper.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.text import Text

from report.conditions import Entry

Dashes = tuple[float, tuple[float, ...]]

SOLID: Dashes = (0.0, ())
DASHED: Dashes = (0.0, (4.0, 1.6))
DOTTED: Dashes = (0.0, (1.0, 1.4))
DASHDOT: Dashes = (0.0, (4.0, 1.4, 1.0, 1.4))

BLUE, SKY, GREEN = "#0072b2", "#56b4e9", "#009e73"
ORANGE, VERMILION, PURPLE = "#e69f00", "#d55e00", "#cc79a7"
GREY = "#7f7f7f"


@dataclass(frozen=True)
class RouterStyle:
    """The style of a router in figures. `dashes` is matplotlib's (offset, on-off points)."""

    colour: str
    marker: str
    hatch: str
    dashes: Dashes

    @property
    def line(self) -> dict[str, Any]:
        """The arguments of matplotlib for a line with markers."""
        return {"color": self.colour, "linestyle": self.dashes, "marker": self.marker}

    @property
    def point(self) -> dict[str, Any]:
        """The arguments of matplotlib for a marker with a rim."""
        return {"color": self.colour, "marker": self.marker, "mec": PAPER, "mew": 0.5}


KNOWN: dict[str, RouterStyle] = {
    "softmax_token_choice": RouterStyle(BLUE, "o", "", SOLID),
    "sinkhorn_token_choice": RouterStyle(SKY, "s", "////", DASHED),
    "softmax_expert_choice": RouterStyle(VERMILION, "^", "", SOLID),
    "sinkhorn_expert_choice": RouterStyle(ORANGE, "v", "////", DASHED),
    "sparsity_constrained_expert_choice": RouterStyle(PURPLE, "D", "||||", DASHDOT),
    "soft_moe": RouterStyle(GREEN, "P", "", SOLID),
    "dense": RouterStyle(GREY, "X", "", SOLID),
    "dense_params": RouterStyle(GREY, "p", "////", DASHED),
    "random": RouterStyle(GREY, "<", "\\\\\\\\", DOTTED),
    "hash": RouterStyle(GREY, ">", "xxxx", DASHDOT),
    "frozen": RouterStyle(GREY, "h", "----", (0.0, (6.0, 1.4, 1.0, 1.4, 1.0, 1.4))),
}

_STROKES = [("d", "++", DOTTED), ("*", "xx", (0.0, (2.0, 1.0))), ("H", "---", (0.0, (8.0, 2.0)))]
_SPARE = [
    RouterStyle(colour, marker, hatch, dashes)
    for (marker, hatch, dashes), colour in product(
        _STROKES, [PURPLE, GREEN, BLUE, VERMILION, ORANGE, SKY]
    )
]


def router_styles(names: Iterable[str]) -> dict[str, RouterStyle]:
    """Choose a style for each name; two unlisted names never share one (up to 18 of them)."""
    chosen = {name: KNOWN[name] for name in names if name in KNOWN}
    unlisted = sorted(set(names) - set(chosen))
    for name in unlisted:
        start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        turns = [_SPARE[(start + turn) % len(_SPARE)] for turn in range(len(_SPARE))]
        free = [style for style in turns if style not in chosen.values()]
        chosen[name] = (free or turns)[0]
    return chosen


COLUMN = 3.25
PAGE = 6.75
"""Widths in inches: one column of a two-column paper, and both columns."""

_STYLE = matplotlib.rc_params_from_file(
    Path(__file__).parent / "figures.mplstyle", use_default_template=False
)
INK, FAINT, GRID, PAPER = (
    _STYLE[name] for name in ("text.color", "axes.edgecolor", "grid.color", "figure.facecolor")
)
(FAMILY,) = _STYLE["font.family"]
"""The font of all figures, which comes with matplotlib."""
BOXES = "Last Resort"
"""A font that draws every character as a box, so it is of no use."""


@dataclass(frozen=True)
class Drawing:
    """A finished figure of `entries`.

    Attributes:
        caption: explains every line, bar and band.
        lacking: characters of its texts that no installed font has; codes replace them.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    entries: tuple[Entry, ...]
    lacking: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        # Laid out only once, not for every file format.
        with style():
            object.__setattr__(self, "lacking", _fit(self.figure) | lacking(self.caption))
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")

    def saved(self, kind: str) -> bytes:
        """Return the figure as a `png` (300 dpi), `pdf` or `svg` file, bit-identical each time."""
        undated: dict[str, dict[str, Any]] = {
            "png": {"Software": None},
            "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
            "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
        }
        out = io.BytesIO()
        with style():
            self.figure.savefig(out, format=kind, dpi=300, metadata=undated[kind])
        return out.getvalue()


def _fit(figure: Figure) -> frozenset[str]:
    """Give each text of a figure fonts with its characters; return those that no font has.

    Each of these is written as its code point, `U+72AC`.
    """
    shown = {text.get_text() for text in figure.findobj(Text)}
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            shown |= _fit_ticks(axis)
    for text in figure.findobj(Text):
        if wanted := _beyond(text.get_text()):
            text.set_fontfamily([FAMILY, *_fonts(wanted)[0]])
            text.set_text(_with_codes(text.get_text()))
    return frozenset(char for text in shown for char in lacking(text))


def lacking(text: str) -> frozenset[str]:
    """Return the characters of a text that no installed font has."""
    return _fonts(_beyond(text))[1]


def _fit_ticks(axis: Axis) -> set[str]:
    """Put codes into an axis, which resets its labels on each drawing; return the old labels."""
    labels = [label.get_text() for label in axis.get_ticklabels()]
    if any(map(lacking, labels)):
        axis.set_ticks(axis.get_ticklocs(), list(map(_with_codes, labels)))
    return set(labels)


def _with_codes(text: str) -> str:
    without = lacking(text)
    return "".join(f"U+{ord(char):04X}" if char in without else char for char in text)


def _beyond(text: str) -> frozenset[str]:
    """Return the characters of a text that the font of all figures lacks."""
    own = get_font(findfont(FAMILY))
    return frozenset(c for c in text if not c.isspace() and not own.get_char_index(ord(c)))


@cache
def _fonts(wanted: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return installed fonts that have these characters, and the characters that none of them has.

    The font with the most of them comes first.
    """
    had = {
        font.name: frozenset(c for c in wanted if get_font(font.fname).get_char_index(ord(c)))
        for font in (fontManager.ttflist if wanted else ())
        if not font.name.startswith(BOXES) and (font.style, font.weight) == ("normal", 400)
    }
    chosen: list[str] = []
    while had:
        best = max(had, key=lambda name: len(had[name] & wanted))
        if not had[best] & wanted:
            break
        chosen.append(best)
        wanted -= had.pop(best)
    return tuple(chosen), wanted


@contextmanager
def style() -> Iterator[None]:
    """Apply this module's type, ink and grid within the context, ignoring a user's settings."""
    with matplotlib.style.context("default"), matplotlib.rc_context(_STYLE):
        yield


def blank(width: float, height: float) -> Figure:
    """Make an empty figure with automatic layout; sizes are in inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.04, hspace=0.04)
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def folded(name: str, width: int = 22) -> str:
    """Return `name` wrapped at `width` characters, broken only after underscores and spaces."""
    lines = [""]
    for part in name.replace("_", "_\0").replace(" ", " \0").split("\0"):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def router_legend(
    figure: Figure, styles: Mapping[Any, RouterStyle], columns: int, **line: Any
) -> None:
    """Draw one legend for the entire figure, below it, with each system's line and marker."""
    handles = [Line2D([], [], **(own.line | line), label=str(s)) for s, own in styles.items()]
    # matplotlib fills one column after the other, but a legend is read line by line.
    by_column = [handle for column in range(columns) for handle in handles[column::columns]]
    figure.legend(handles=by_column, loc="outside lower center", ncols=columns, columnspacing=1.2)


def panels(
    count: int, columns: int, width: float, height: float, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` axes in rows of at most `columns`, each row `height` inches."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = blank(width, rows * height)
    grid = figure.subplots(rows, columns, squeeze=False, **shared)
    axes: list[Axes] = list(grid.flat)
    for unused in axes[count:]:
        unused.remove()
    for lowest in axes[max(count - columns, 0) : count]:
        lowest.tick_params(labelbottom=True)  # a shared axis is labelled only in the last row
    return figure, axes[:count]
