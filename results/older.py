"""Words for results of older code that stand beside newer ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd


def older_sentence(frame: pd.DataFrame) -> str:
    """Whose numbers in a frame are of older code, and what changed since; "" where none are.

    Args:
        frame: rows of `trials_frame`, `measurements_frame` or `metrics_frame`.
    """
    rows = frame.loc[frame["older"], ["router", "changed"]].drop_duplicates()
    changed: dict[str, list[str]] = {}
    for router, told in rows.itertuples(index=False):
        changed.setdefault(router, []).append(told)
    return sentence(changed)


def sentence(changed: Mapping[str, Iterable[str]]) -> str:
    """The same.

    Args:
        changed: of each router, what changed since, as the frames tell it.
    """
    if not changed:
        return ""
    each = {part for told in changed.values() for parts in told for part in parts.split(", ")}
    *others, last = sorted(each)
    return (
        f"Of older code than the newest results here: {', '.join(changed)}; since then "
        f"{' and '.join(filter(None, (', '.join(others), last)))} changed."
    )
