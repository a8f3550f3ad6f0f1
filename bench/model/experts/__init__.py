"""The functions behind the slots: one file a family, registered by name."""

from bench.model.experts.base import (
    EXPERTS,
    Experts,
    ReplacedMLP,
    build_experts,
    register_experts,
)

# Importing a family registers it.
from bench.model.experts import mlp  # isort: skip  # noqa: F401

__all__ = ["EXPERTS", "Experts", "ReplacedMLP", "build_experts", "register_experts"]
