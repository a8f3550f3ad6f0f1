"""Pruning: how well a trained model does with fewer experts, and what it then costs."""

from collections.abc import Iterator
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from routers.errors import UndefinedError
from routers.hyper import hyper
from suites.accuracy import top_k_accuracy
from suites.support.base import Array, Metric, MetricDef, Suite, register_suite
from suites.support.subject import TrialSubject, why_not_routed
from suites.support.timing import fixed_conditions, interleaved, one_pass

RANDOM, CHANGE = "prune_random", "prune_router_change"
RULES = (CHANGE, "prune_count", "prune_gate_mass", "merge_outputs", "merge_weights", RANDOM)
PLACE = "by `rule` and remaining `experts`; without a rule, for the whole model"


@register_suite("pruning", family="cost", source="arXiv 2405.16646, 2404.05089, 2407.09590")
class Pruning(Suite[TrialSubject]):
    """Accuracy, FLOPs, bytes and time of a trained model against the number of experts kept.

    In each MoE layer experts are kept by a rule, or merged with their routers, down to one: E, E/2,
    E/4, … The result is a model with fewer experts, which runs like any other; it is not trained
    further. The rules look at validation images; the accuracy is that of the test split. The start
    of `prune_router_change` is in `where`: `reference` is "initial weights", or "parent" for a
    trial that was derived from another. A rule that is undefined for the router is named, with the
    reason, in `undefined_rules`.

    The models of all rules and the whole model are timed in turn. Other processes may use the
    machine meanwhile: compare times within one trial, and see suite `throughput` for better ones.
    """

    on = "trial"
    main_metric = "half_top1"
    metrics = (
        MetricDef(
            "half_top1",
            "share",
            "higher",
            "Test accuracy with half of the experts, mean over all rules but `prune_random`.",
        ),
        MetricDef("pruned_top1", "share", "higher", f"Test accuracy, {PLACE}."),
        MetricDef("pruned_flops", "FLOP", "lower", f"FLOPs of one image, forward, {PLACE}."),
        MetricDef("pruned_bytes", "B", "lower", f"Parameters of the whole network, {PLACE}."),
        MetricDef("pruned_ms", "ms", "lower", f"Median time of a test batch, forward, {PLACE}."),
        MetricDef("pruned_time_ratio", "", "lower", "`pruned_ms` over that of the whole model."),
        MetricDef("undefined_rules", "", None, "Rules undefined for the router, with the reason."),
    )

    rules: list[str] = hyper(list(RULES), "How experts are kept or merged.", min_length=1)
    draws: int = hyper(3, "Draws of `prune_random`, whose mean counts.", ge=1)
    seconds: float = hyper(0.3, "Seconds of timing for each number of experts.", gt=0)
    min_repeats: int = hyper(5, "Minimum number of timed repeats.", ge=1)
    max_repeats: int = hyper(200, "Maximum number of timed repeats.", ge=1)

    def applies_to(self, subject: TrialSubject) -> str | None:
        if why := why_not_routed(subject.model):
            return why
        if subject.num_experts == 1:
            return "the model has one expert in each layer"
        try:
            subject.pruned(RANDOM, 1)
        except UndefinedError as error:
            return str(error)
        return None

    def measure(self, subject: TrialSubject) -> Iterator[Metric | Array]:
        experts = subject.num_experts
        images = next(subject.run(subject.model, "test")).images
        yield from _measured(subject, [subject.model], {"experts": experts})
        undefined: dict[str, str] = {}
        for left in halves(experts):
            models = {}
            for rule in self.rules:
                try:
                    models[rule] = self.pruned(subject, rule, left)
                except UndefinedError as error:
                    undefined[rule] = str(error)
            tops = {}
            for rule, own in models.items():
                for metric in _measured(subject, own, _where(subject, rule, left)):
                    if metric.name == "pruned_top1" and rule != RANDOM:
                        tops[rule] = metric.value
                    yield metric
            if left == experts // 2 and tops:
                yield Metric("half_top1", fmean(tops.values()), split="test")
            times = self.times(subject, {rule: own[0] for rule, own in models.items()}, images)
            whole = float(np.median(times.pop("")))
            if left == experts // 2:
                yield Metric("pruned_ms", whole, where={"experts": experts})
            for rule, own_times in times.items():
                where, median = _where(subject, rule, left), float(np.median(own_times))
                yield Metric("pruned_ms", median, where=where)
                yield Metric("pruned_time_ratio", median / whole, where=where)
        if undefined:
            reasons = [f"{rule}: {why}" for rule, why in undefined.items()]
            yield Array("undefined_rules", np.array(reasons, dtype=np.str_))

    def pruned(self, subject: TrialSubject, rule: str, experts: int) -> list[nn.Module]:
        """Prune to that many experts, several times if the rule draws them."""
        seeds = range(self.draws if rule == RANDOM else 1)
        return [subject.pruned(rule, experts, seed) for seed in seeds]

    def times(
        self, subject: TrialSubject, models: dict[str, nn.Module], images: Tensor
    ) -> dict[str, np.ndarray]:
        """Time the forward passes of pruned models and, under "", the whole one, in turn, in ms."""
        timed = {"": subject.model, **models}
        runs = {rule: one_pass("forward", model, images) for rule, model in timed.items()}
        limits = self.seconds, self.min_repeats, self.max_repeats
        with fixed_conditions(torch.get_num_threads()):
            return interleaved(runs, subject.device, *limits)


def halves(experts: int) -> list[int]:
    """Return half the experts, a quarter, …, down to one, each rounded down."""
    return [experts >> power for power in range(1, experts.bit_length())]


def _where(subject: TrialSubject, rule: str, experts: int) -> dict[str, Any]:
    where = {"rule": rule, "experts": experts}
    if rule == CHANGE:
        where["reference"] = "parent" if subject.derived else "initial weights"
    return where


def _measured(
    subject: TrialSubject, models: list[nn.Module], where: dict[str, Any]
) -> Iterator[Metric]:
    """Measure models of one size, and yield the means over them."""
    tops = []
    for model in models:
        batches = [(b.logits.cpu(), b.labels.cpu()) for b in subject.run(model, "test")]
        logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        tops.append(top_k_accuracy(logits, labels, 1))
    yield Metric("pruned_top1", fmean(tops), split="test", where=where)
    flops = fmean(subject.flops_per_image(model) for model in models)
    yield Metric("pruned_flops", flops, where=where)
    yield Metric("pruned_bytes", sum(p.nbytes for p in models[0].parameters()), where=where)
