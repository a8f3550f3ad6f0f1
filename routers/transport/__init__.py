"""Transport plans between tokens and experts, solved for all groups at once; no gradients."""

from routers.transport.sinkhorn import Plan, sinkhorn_plan
from routers.transport.sparse import SparsePlan, sparse_plan

__all__ = ["Plan", "SparsePlan", "sinkhorn_plan", "sparse_plan"]
