"""Scaling: one point of the curves of error and cost against experts, slots and budget.

A suite sees one trial, and a power law takes several. So a study sweeps the settings, as the preset
`scaling` does; for each trial this suite measures, from what ran, where it lies on the three axes
and what it reached there; and the report fits the laws over all trials.
"""

from collections.abc import Iterator

import torch
from torch.nn.functional import cross_entropy

from suites.support.base import Array, Metric, MetricDef, Suite, register_suite
from suites.support.subject import TrialSubject, routers_of


@register_suite("scaling", family="scaling", source="arXiv 2001.08361")
class Scaling(Suite[TrialSubject]):
    """Where a trial lies on the axes of scaling, what it reached there and what it costs.

    The axes are `experts`, `slots` and `training_flops`; a dense model only lies on the last. Slots
    are counted from the routings of the whole test split, at the batch size of training.
    """

    on = "trial"
    main_metric = "error"
    metrics = (
        MetricDef("error", "share", "lower", "Test images whose most probable class is wrong."),
        MetricDef("loss", "nat", "lower", "Mean negative log-likelihood on the test split."),
        MetricDef("image_flops", "FLOP", "lower", "FLOPs of one image, forward."),
        MetricDef("parameter_bytes", "B", "lower", "Size of the weights of the whole model."),
        MetricDef(
            "step_ms",
            "ms",
            "lower",
            "Mean time of a training step, including whatever else the machine did meanwhile.",
        ),
        MetricDef("experts", "experts", None, "Experts of each MoE layer."),
        MetricDef(
            "slots",
            "slots",
            None,
            "Slots that all experts run per image, used or not; mean over the MoE layers.",
        ),
        MetricDef(
            "training_flops",
            "FLOP",
            None,
            "FLOPs of training, counted from what ran, without the optimiser's.",
        ),
    )

    def measure(self, subject: TrialSubject) -> Iterator[Metric | Array]:
        images = wrong = 0
        loss, slots = 0.0, 0.0
        with torch.no_grad():
            for batch in subject.run(subject.model, "test"):
                images += len(batch.labels)
                wrong += int((batch.logits.argmax(-1) != batch.labels).sum())
                loss += float(cross_entropy(batch.logits.double(), batch.labels, reduction="sum"))
                counts = [routing.slot_count for routing in batch.routings]
                slots += sum(counts) / max(len(counts), 1)
        yield Metric("error", wrong / images, split="test")
        yield Metric("loss", loss / images, split="test")
        stats = subject.stats
        yield Metric("image_flops", stats["flops_per_image"])
        size = sum(weights.nbytes for weights in subject.model.parameters())
        yield Metric("parameter_bytes", float(size))
        yield Metric("step_ms", 1e3 * stats["train_seconds"] / stats["steps"])
        if routers_of(subject.model):
            yield Metric("experts", float(subject.num_experts))
            yield Metric("slots", slots / images, split="test")
        yield Metric("training_flops", stats["train_flops"])
