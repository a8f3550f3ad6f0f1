"""What every router is held against stands in every preset that compares routers."""

from __future__ import annotations

import pytest

from bench.config.presets import load_preset
from results.statistics import NULLS


@pytest.mark.parametrize("name", ["smoke", "tiny", "mixtures", "small", "study", "cpu-study"])
def test_the_four_nulls_stand_in_each_preset(name):
    assert set(NULLS) <= set(load_preset(name).routers)
