"""Experts, registered by name: one file per family."""

from bench.model.experts.base import EXPERTS, Experts, build_experts, register_experts
from bench.model.experts.replaced import (
    Replaced,
    ReplacedLinear,
    ReplacedMLP,
    ReplacedNetwork,
    is_linear,
    replaced_by,
)
from bench.model.experts.stacked import MLPExperts

# Importing a family registers it.
from bench.model.experts import heterogeneous, growing, lora, mpo, factorised  # isort: skip
