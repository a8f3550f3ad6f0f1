"""Affinities: how tokens become logits."""

from routers.affinity.base import AFFINITIES, Affinity, build_affinity, register_affinity

# Importing a family registers it, in the order in which cards show them.
from routers.affinity import plain, deep, attentive  # isort: skip  # noqa: F401

__all__ = ["AFFINITIES", "Affinity", "build_affinity", "register_affinity"]
