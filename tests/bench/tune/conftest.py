"""Short tunings on the digits, in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.config.presets import Preset, load_preset, validated_preset
from bench.data.registry import Datasets
from bench.execute.context import RunOptions
from bench.execute.events import Event
from bench.plan.plan import make_request
from bench.tune.best_settings import search_results
from bench.tune.tuner import Tuning, tune
from results import Store, open_store
from results.tuned import SearchResult

QUICK = {"train.epochs": 0.2, "train.evaluations": 4}


@pytest.fixture
def tuned(
    tmp_path: Path, store: Store, datasets: Datasets
) -> Callable[..., dict[str, SearchResult]]:
    """Tune on the digits in this process, and return the results."""

    def go(
        routers: list[str],
        trials: int = 3,
        *,
        on_event: Callable[[Event], None] = lambda event: None,
        home: Path | None = None,
        seed: int = 0,
        **changes: Any,
    ) -> dict[str, SearchResult]:
        asked = Tuning("t", preset_of(routers, trials, **changes), seed)
        if home is None:
            tune(asked, store, tmp_path, datasets, on_event, RunOptions(jobs=0))
            return search_results(store, "t")
        with open_store(home / "bench.db") as other:
            tune(asked, other, home, datasets, on_event, RunOptions(jobs=0))
            return search_results(other, "t")

    return go


def preset_of(
    routers: list[str], trials: int = 3, settings: dict[str, Any] | None = None, **tuning: Any
) -> Preset:
    """Return a shortened preset smoke without its parts."""
    whole = load_preset("smoke").model_copy(update={"parts": ()})
    preset = make_request(whole, routers=routers, settings=QUICK | (settings or {})).preset
    fields = preset.model_dump()
    fields["tune"] |= {"trials": trials, "seeds": 1, "pruner": "none", **tuning}
    return validated_preset(fields, "the test's preset")
