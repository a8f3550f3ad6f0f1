"""Models: the MoE layer, the experts behind its slots, and timm models made of them."""

from bench.model.backbone import moefy
from bench.model.build import build_model
from bench.model.experts import (
    EXPERTS,
    Experts,
    ReplacedLinear,
    ReplacedMLP,
    ReplacedNetwork,
    build_experts,
    register_experts,
)
from bench.model.moe import MoELayer
from bench.model.origin import registering_modules
from bench.model.passes import forward_pass
from bench.model.places import moe_layers
from routers.plugins import ELSEWHERE

# A plugin may bring a model alone.
ELSEWHERE.append(registering_modules)

__all__ = [
    "EXPERTS",
    "Experts",
    "MoELayer",
    "ReplacedLinear",
    "ReplacedMLP",
    "ReplacedNetwork",
    "build_experts",
    "build_model",
    "forward_pass",
    "moe_layers",
    "moefy",
    "register_experts",
]
