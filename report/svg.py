"""A figure inside a page: its ink follows the page's theme, its ids are its own."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from report.figures.canvas import FAINT, GRID, INK, PAPER, Drawing

THEME = {INK: "var(--ink)", FAINT: "var(--faint)", GRID: "var(--rule)", PAPER: "var(--paper)"}


def inline(drawing: Drawing) -> Markup:
    """The figure as an `<svg>` element without prolog, namespaces or fixed size."""
    text = drawing.saved("svg").decode()
    text = text[text.index("<svg") :]
    for colour, variable in THEME.items():
        text = text.replace(colour, variable)
    # Glyphs and clip paths have names, and a page holds many figures; nothing else needs one.
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] * (found[1] in used), text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{drawing.name}-", text)
    text = re.sub(r' (?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    label = f'<svg role="img" aria-label="{escape(drawing.title)}"'
    return Markup(text.replace("<svg", label, 1))
