"""Routings: the values that routers return, in all their forms."""

from routers.routing.base import Routing
from routers.routing.dense import MergedRouting, MixtureRouting, SoftRouting
from routers.routing.expert_choice import ExpertChoiceRouting
from routers.routing.padded import PaddedRouting, Part, route_padded
from routers.routing.token_choice import GroupChoiceRouting, TokenChoiceRouting

__all__ = [
    "ExpertChoiceRouting",
    "GroupChoiceRouting",
    "MergedRouting",
    "MixtureRouting",
    "PaddedRouting",
    "Part",
    "Routing",
    "SoftRouting",
    "TokenChoiceRouting",
    "route_padded",
]
