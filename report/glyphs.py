"""Glyphs for every script: fonts that have what the report's own font lacks, or a substitute."""

from __future__ import annotations

from functools import cache

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font
from matplotlib.text import Text

FAMILY = "DejaVu Sans"
"""The font of all figures, which comes with matplotlib."""

BOXES = "Last Resort"
"""Has a box for every character, so it helps with none."""


def fit(figure: Figure) -> frozenset[str]:
    """Give each text of a figure fonts that have its characters.

    Returns:
        The characters that no installed font has: each is written as its code, `U+72AC`.
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
    """Labels of ticks are set anew from the axis at each drawing: it has to know of the codes.

    Returns:
        The labels as they were.
    """
    labels = [label.get_text() for label in axis.get_ticklabels()]
    if any(map(lacking, labels)):
        axis.set_ticks(axis.get_ticklocs(), list(map(_with_codes, labels)))
    return set(labels)


def _with_codes(text: str) -> str:
    without = lacking(text)
    return "".join(f"U+{ord(char):04X}" if char in without else char for char in text)


def _beyond(text: str) -> frozenset[str]:
    """Return the characters that the font of all figures lacks."""
    own = get_font(findfont(FAMILY))
    return frozenset(c for c in text if not c.isspace() and not own.get_char_index(ord(c)))


@cache
def _fonts(wanted: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Installed fonts that have these characters, and those that none of them has.

    The font that has most comes first.
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
