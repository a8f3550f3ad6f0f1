"""Every preset that compares routers contains the null routers."""

from __future__ import annotations

import pytest

from bench.config.presets import load_preset
from bench.plan.expand import trial_specs
from results.statistics.comparisons import NULLS
from routers import list_routers


@pytest.mark.parametrize("name", ["smoke", "tiny", "mixtures", "small", "study"])
def test_each_preset_contains_the_four_nulls(name):
    assert set(NULLS) <= set(load_preset(name).routers)


def test_the_zoo_compares_every_router_that_trains_a_vit():
    specs = trial_specs(load_preset("zoo"))
    vits = [spec.router.name for spec in specs if spec.model.name.startswith("vit")]
    assert sorted(vits) == sorted(list_routers() * load_preset("zoo").seeds)
