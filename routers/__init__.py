"""Routers for vision MoEs in pure PyTorch, independent of the harness around them."""

from routers.affinity import AFFINITIES, build_affinity, register_affinity
from routers.baseline import Baseline
from routers.errors import BenchError, NonFiniteError, RequestError
from routers.hyper import Choice, Configurable, Range, hyper
from routers.layer_info import RouterContext, Site, two_levels
from routers.losses import LOSSES, register_loss
from routers.parts import Batch, Parts, in_parts, passes_of
from routers.plugins import load_entry_points, load_plugin
from routers.registry import Entry, Registry
from routers.router import (
    ROUTERS,
    Router,
    build_router,
    described,
    list_routers,
    register_router,
)
from routers.routing import (
    ExpertChoiceRouting,
    GroupChoiceRouting,
    MergedRouting,
    MixtureRouting,
    PaddedRouting,
    Part,
    Routing,
    SoftRouting,
    TokenChoiceRouting,
)
from routers.stepping import finish_step, listens, step_stats

# Importing a family registers its routers, in the order in which tables show them.
from routers import token_choice, biased, balanced, moe_plus_plus, top_p, relu, dynmoe, dselect  # isort: skip  # noqa: F401
from routers import expert_choice, threshold, soft, smear, mixer, moce, mixture, nulls  # isort: skip  # noqa: F401

__all__ = [
    "AFFINITIES",
    "LOSSES",
    "ROUTERS",
    "Baseline",
    "Batch",
    "BenchError",
    "Choice",
    "Configurable",
    "Entry",
    "ExpertChoiceRouting",
    "GroupChoiceRouting",
    "MergedRouting",
    "MixtureRouting",
    "NonFiniteError",
    "PaddedRouting",
    "Part",
    "Parts",
    "Range",
    "Registry",
    "RequestError",
    "Router",
    "RouterContext",
    "Routing",
    "Site",
    "SoftRouting",
    "TokenChoiceRouting",
    "build_affinity",
    "build_router",
    "described",
    "finish_step",
    "hyper",
    "in_parts",
    "list_routers",
    "listens",
    "load_entry_points",
    "load_plugin",
    "passes_of",
    "register_affinity",
    "register_loss",
    "register_router",
    "step_stats",
    "two_levels",
]
