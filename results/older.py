"""Words for results of older code that stand beside newer ones."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd


def older_sentence(frame: pd.DataFrame) -> str:
    """Whose numbers in a frame are of older code; "" where none are.

    Args:
        frame: rows of `trials_frame`, `measurements_frame` or `metrics_frame`.
    """
    return sentence(frame.loc[frame["older"], "router"])


def sentence(routers: Iterable[str]) -> str:
    """The same of these routers, each told once."""
    told = ", ".join(dict.fromkeys(routers))
    return f"Of older code than the newest results here: {told}." if told else ""
