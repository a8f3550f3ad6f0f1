"""The value that a router returns, in its forms."""

from routers.routing.base import Routing
from routers.routing.expert_choice import ExpertChoiceRouting
from routers.routing.mixture import MixtureRouting
from routers.routing.soft import SoftRouting
from routers.routing.token_choice import TokenChoiceRouting

__all__ = [
    "ExpertChoiceRouting",
    "MixtureRouting",
    "Routing",
    "SoftRouting",
    "TokenChoiceRouting",
]
