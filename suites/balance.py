"""Balance: how evenly the experts are used, and what capacity costs.

Measured on the test split at the end, and on a part of the validation split at each snapshot.
Notation: x_e is the demand or the load of expert e, summed over all groups of the split.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from scipy import special
from torch import Tensor, nn

from routers.hyper import hyper
from routers.routing import Routing
from suites.support.base import Array, Metric, MetricDef, Suite, layers_and_mean, register_suite
from suites.support.subject import TrialSubject, why_not_routed

DEAD_BELOW = 0.01
"""An expert is dead below this share of the mean."""


def _definitions(name: str, what: str) -> tuple[MetricDef, ...]:
    return (
        MetricDef(name, "tokens", None, f"For each expert, (E,): {what}."),
        MetricDef(f"{name}_cv", "", "lower", f"Population std over mean of {what}."),
        MetricDef(f"{name}_max_over_mean", "", "lower", f"Maximum over mean of {what}."),
        MetricDef(f"{name}_gini", "", "lower", f"Gini coefficient of {what}; 0 is even."),
        MetricDef(f"{name}_entropy", "", "higher", f"Entropy over log2 E of {what}; 1 is even."),
        MetricDef(f"{name}_dead", "experts", "lower", f"Experts below 1 % of the mean of {what}."),
    )


@register_suite("balance", family="routing", source="arXiv 2401.15969, 1701.06538")
class Balance(Suite[TrialSubject]):
    """How evenly the experts are used, and what is lost to capacity.

    Demand and load are counted over the whole split, for each MoE layer. A metric that is constant
    by construction carries `where = {"constant": true}`: it says nothing about the router. Under
    expert choice these are the load and the dropped share; if every expert sees every token, as in
    soft MoE, also the uncovered tokens.
    """

    on = "trial"
    main_metric = "load_cv"
    metrics = (
        *_definitions("demand", "the tokens that want an expert, before dropping"),
        *_definitions("load", "the tokens that an expert processes, after dropping"),
        MetricDef("dropped", "share", "lower", "Token choices lost to capacity."),
        MetricDef("uncovered", "share", "lower", "Tokens that no expert processed."),
        MetricDef("experts_per_token_mean", "experts", None, "Experts that process a token."),
        MetricDef("experts_per_token_min", "experts", None, "The fewest for any token."),
        MetricDef("experts_per_token_max", "experts", None, "The most for any token."),
        MetricDef(
            "importance_cv",
            "",
            "lower",
            "Population std over mean of the total combine weight of each expert.",
        ),
        MetricDef("capacity", "slots", None, "Slots that an expert runs in a group, used or not."),
        MetricDef(
            "marginal_error",
            "",
            "lower",
            "Error in the marginals of the transport plan, as its solver reports it.",
        ),
    )

    snapshot_images: int = hyper(
        512, "Minimum validation images at each snapshot; 0 leaves snapshots out.", ge=0
    )

    def applies_to(self, subject: TrialSubject) -> str | None:
        return why_not_routed(subject.model)

    def measure(self, subject: TrialSubject) -> Iterator[Metric | Array]:
        yield from self.of_model(subject, subject.model, "test")
        for snapshot in subject.snapshots if self.snapshot_images else ():
            results = self.of_model(subject, snapshot.load(), "val", self.snapshot_images)
            yield from (replace(result, step=snapshot.step) for result in results)

    def of_model(
        self, subject: TrialSubject, model: nn.Module, split: str, images: int | None = None
    ) -> Iterator[Metric | Array]:
        """Measure one model on the first batches of a split, with at least `images` images."""
        layers: list[LayerCounts] = []
        seen = 0
        for batch in subject.run(model, split):
            layers = layers or [LayerCounts(routing.num_experts) for routing in batch.routings]
            for layer, routing in zip(layers, batch.routings, strict=True):
                layer.add(routing)
            seen += len(batch.labels)
            if images is not None and seen >= images:
                break
        yield from layers_and_mean([layer.metrics() for layer in layers], split)
        for index, layer in enumerate(layers):
            for name, counts in layer.counts.items():
                where = marked(layer.constant)
                yield Array(name, counts, layer=index, split=split, where=where)


class LayerCounts:
    """The counts of one layer, summed over the groups that were added.

    Attributes:
        counts: "demand" and "load", (E,) long each.
        importance: (E,) float, the combine weights.
        coverage: (E + 1,) long; entry n is the number of tokens that n experts processed.
        groups, slots: groups, and slots of all experts in them.
        marginal_errors: one for each group, if a transport plan was solved.
        constant: whether the load is constant by construction.
        seen_by_all: whether every expert processes every token by construction.
    """

    def __init__(self, num_experts: int) -> None:
        self.counts = {name: np.zeros(num_experts, dtype=np.int64) for name in ("demand", "load")}
        self.importance = np.zeros(num_experts)
        self.coverage = np.zeros(num_experts + 1, dtype=np.int64)
        self.groups = self.slots = 0
        self.marginal_errors: list[float] = []
        self.constant = self.seen_by_all = False

    def add(self, routing: Routing) -> None:
        """Count the groups of one batch."""
        experts_of_token = routing.real(routing.token_coverage())
        self.counts["demand"] += _host(routing.demand().sum(0))
        self.counts["load"] += _host(routing.expert_load().sum(0))
        self.importance += _host(routing.combine_weights().double().sum((0, 1)))
        self.coverage += _host(experts_of_token.bincount(minlength=len(self.coverage)))
        self.groups += routing.gates.shape[0]
        self.slots += routing.slot_count
        if "marginal_error" in routing.diagnostics:
            self.marginal_errors += routing.diagnostics["marginal_error"].tolist()
        self.constant = routing.constant_load
        self.seen_by_all = routing.seen_by_all

    def metrics(self) -> Iterator[Metric]:
        """Yield all numbers in `Balance.metrics`."""
        where, covered = marked(self.constant), marked(self.seen_by_all)
        for name, counts in self.counts.items():
            for statistic, value in spread(counts).items():
                yield Metric(f"{name}_{statistic}", value, where=where)
        demand, load = (int(counts.sum()) for counts in self.counts.values())
        yield Metric("dropped", (demand - load) / max(demand, 1), where=where)
        experts, tokens = np.arange(len(self.coverage)), self.coverage
        yield Metric("uncovered", float(tokens[0] / tokens.sum()), where=covered)
        mean = float((experts * tokens).sum() / tokens.sum())
        yield Metric("experts_per_token_mean", mean, where=where)
        yield Metric("experts_per_token_min", float(experts[tokens > 0].min()), where=covered)
        yield Metric("experts_per_token_max", float(experts[tokens > 0].max()), where=covered)
        if self.importance.any():
            yield Metric("importance_cv", variation(self.importance))
        yield Metric("capacity", self.slots / (self.groups * len(self.importance)))
        if self.marginal_errors:
            yield Metric("marginal_error", float(np.mean(self.marginal_errors)))


def marked(constant: bool) -> dict[str, bool]:
    """Return the `where` of a metric, saying whether it is constant by construction."""
    return {"constant": True} if constant else {}


def _host(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.detach().cpu().numpy()
    return array


def spread(counts: np.ndarray) -> dict[str, float]:
    """Measure how unevenly (E,) counts are spread over the experts, by statistic.

    If all counts are 0, every expert is dead and nothing else is defined.
    """
    if not counts.any():
        return {"dead": float(len(counts))}
    experts = len(counts)
    entropy = float(special.entr(counts / counts.sum()).sum())
    return {
        "cv": variation(counts),
        "max_over_mean": float(counts.max() / counts.mean()),
        "gini": gini(counts),
        "entropy": float(entropy / np.log(experts)) if experts > 1 else 1.0,
        "dead": float((counts < DEAD_BELOW * counts.mean()).sum()),
    }


def variation(counts: np.ndarray) -> float:
    """Return the population standard deviation divided by the mean."""
    return float(counts.std() / counts.mean())


def gini(counts: np.ndarray) -> float:
    """Compute Gini's Σ_i Σ_j |x_i − x_j| / (2 E Σ_i x_i): 0 if even, (E − 1)/E if all in one."""
    rank = np.arange(1, len(counts) + 1)
    weighted = ((2 * rank - len(counts) - 1) * np.sort(counts)).sum()
    return float(weighted / (len(counts) * counts.sum()))
