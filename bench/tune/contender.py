"""A router that is tuned: where it searches, and the trial that its settings make."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import CategoricalDistribution

from bench.datasets import Datasets
from bench.fingerprint import Fingerprints
from bench.overrides import override
from bench.plan import Planned, Request, make_plan
from bench.presets import Preset
from bench.specs import selected_routers, trial_specs
from bench.tune.space import Space, preset_of, space_of
from routers.errors import RequestError

SEED = 1_000_000
"""The trainings of a tuning have one seed, that no other has: those of a study count from 0."""


@dataclass(frozen=True)
class Contender:
    """A router, and what its trials have in common.

    Attributes:
        preset: with this router alone.
        seed: of the tuning.
    """

    router: str
    preset: Preset
    space: Space
    seed: int

    @property
    def training_seed(self) -> int:
        """Of each of its trainings."""
        return SEED + self.seed

    def planned(
        self, settings: Mapping[str, Any], datasets: Datasets, fingerprints: Fingerprints
    ) -> Planned:
        """The training with these settings; nothing measures it and no weights but its last stay.

        Raises:
            BenchError: the settings do not fit, or the data is not there.
        """
        preset = override(self.preset, settings, f"tuning {self.router}")
        (planned,) = make_plan(Request("", preset, {}), datasets).trials
        train = planned.spec.train.model_copy(update={"snapshots": 0})
        spec = planned.spec.model_copy(update={"train": train}).with_seed(self.training_seed)
        fingerprint = fingerprints.trial(spec, datasets.hash_of)
        return Planned(self.router, spec, fingerprint, ())


def contenders(preset: Preset, seed: int, fixed: Collection[str] = ()) -> list[Contender]:
    """One for each router of a preset.

    Args:
        fixed: paths that are not searched.

    Raises:
        RequestError: one cannot be tuned, or a range holds values that do not fit its setting.
    """
    preset = preset.model_copy(update={"tuned": {}, "twins": False})
    found = [
        Contender(router.name, preset_of(preset, router), space_of(preset, router, fixed), seed)
        for router in selected_routers(preset)
    ]
    for contender in found:
        _refuse_unfit(contender)
    return found


def _refuse_unfit(contender: Contender) -> None:
    """Try the ends of each range, so that no draw is found out to be no setting."""
    for path, where in contender.space.items():
        categorical = isinstance(where, CategoricalDistribution)
        ends = where.choices if categorical else (where.low, where.high)  # type: ignore[attr-defined]
        for value in ends:
            try:
                trial_specs(override(contender.preset, {path: value}, "tune.ranges"))
            except RequestError as error:
                raise RequestError(f"tuning {contender.router}: {error}") from None
