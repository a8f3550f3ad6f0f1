"""What the routers share that choose by an entropic transport plan."""

from __future__ import annotations

from torch import Tensor

from routers.hyper import Range, hyper
from routers.router import Router
from routers.routing import Routing
from routers.transport import Plan, sinkhorn_plan


class BySinkhornPlan(Router):
    """The plan of the noisy logits chooses; the softmax gates of the clean ones weigh."""

    iterations: int = hyper(20, "Sinkhorn iterations.", ge=1)
    epsilon: float = hyper(
        1.0, "Weight ε of the plan's entropy.", gt=0, tune=Range(0.1, 10.0, log=True)
    )

    def allocate(self, logits: Tensor) -> Routing:
        return self._by_plan(logits, logits)

    def allocate_noisy(self, logits: Tensor, noisy: Tensor) -> Routing:
        return self._by_plan(logits, noisy)

    def _by_plan(self, logits: Tensor, noisy: Tensor) -> Routing:
        plan = sinkhorn_plan(noisy, iterations=self.iterations, epsilon=self.epsilon)
        routing = self.choose(logits, plan)
        routing.diagnostics["marginal_error"] = plan.marginal_error
        return routing

    def choose(self, logits: Tensor, plan: Plan) -> Routing:
        """Who processes what, by the plan: (g, t, E) clean logits -> a routing."""
        raise TypeError(f"router {type(self).__name__!r} defines no choose(self, logits, plan)")
