"""Baselines: models without MoE layers, with which routers are compared."""

from __future__ import annotations

from typing import ClassVar

from routers.hyper import Configurable
from routers.router import register_router


class Baseline(Configurable):
    """Base class of baselines, which take a router's place and leave the model dense."""

    name: ClassVar[str]
    widen: ClassVar[bool] = False
    """Whether the MLPs that would become MoE layers are widened to as many parameters."""


@register_router("dense", family="baseline", display="Dense", source="null")
class Dense(Baseline):
    """The model without MoE layers, which sets the compute budget of every comparison."""


@register_router("dense_params", family="baseline", display="Wide Dense", source="null")
class DenseParams(Baseline):
    """A dense model as large as the MoE: its MLPs are widened to as many parameters as MoE layers.

    A step costs about E times as much in those layers, so a FLOP budget allows fewer steps.
    """

    widen: ClassVar[bool] = True
