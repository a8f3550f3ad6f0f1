"""Accuracy on the test split, and along training against FLOPs and seconds."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from suites.support.base import Array, Metric, MetricDef, Suite, register_suite
from suites.support.subject import Observed, TrialSubject

CALIBRATION_BINS = 15
"""Number of bins, of equal width, over the confidence from 0 to 1."""

CLOSE = 1e-4
"""Relative and absolute difference up to which two logits count as equal."""

TOP5_CLASSES = 6
"""With fewer classes than this, every answer is among the first five."""

CURVES = (
    MetricDef("val_top1", "share", "higher", "Top-1 accuracy on the validation split, by step."),
    MetricDef("val_loss", "nat", "lower", "Cross-entropy on the validation split, by step."),
    MetricDef("train_loss", "nat", "lower", "Training loss, auxiliary losses included, by step."),
)
STATS = (
    MetricDef("steps", "steps", None, "Optimiser steps taken."),
    MetricDef(
        "train_flops",
        "FLOP",
        None,
        "FLOPs of training, counted from what ran, without the optimiser's.",
    ),
    MetricDef("step_flops", "FLOP", None, "Mean FLOPs per training step, forward and backward."),
    MetricDef("flops_budget", "FLOP", None, "What the dense model spends in the recipe's epochs."),
    MetricDef("budget", "", None, "Budget of what `compute.match` matches, in its own unit."),
    MetricDef("budget_error", "share", None, "Amount spent over `budget`, less 1."),
    MetricDef("within_tolerance", "", "higher", "1 if the budget was met as asked, else 0."),
    MetricDef("train_seconds", "s", "lower", "Time of training, without evaluations."),
    MetricDef("params_total", "parameters", None, "Parameters of the whole model."),
    MetricDef("params_active", "parameters", None, "Parameters that act on a token, on average."),
    MetricDef("flops_per_image", "FLOP", "lower", "FLOPs of one image, forward."),
    MetricDef(
        "slots_per_choice",
        "",
        None,
        "The real capacity: slots that the experts run per choice of a token, or per token if "
        "tokens do not choose; used or not, mean over layers, outside training.",
    ),
    MetricDef("expert_rank", "", None, "Rank of factorised experts, mean over layers."),
    MetricDef(
        "parameter_error",
        "share",
        None,
        "Parameters of factorised experts and a linear gate over those of what they replace, "
        "less 1; mean over layers.",
    ),
)


@register_suite("accuracy", family="accuracy", source="arXiv 2401.15969")
class Accuracy(Suite[TrialSubject]):
    """How often the trained model is right, how well it knows when, and what training took.

    Measured on every image of the test split. The curves carry `step` and
    `where = {"flops": …, "seconds": …}`, spent until then.
    """

    on = "trial"
    main_metric = "top1"
    metrics = (
        MetricDef("top1", "share", "higher", "Test images whose most probable class is right."),
        MetricDef("top5", "share", "higher", "Right class among the five most probable."),
        MetricDef("nll", "nat", "lower", "Mean negative log-likelihood of the right class."),
        MetricDef(
            "ece",
            "share",
            "lower",
            f"Expected calibration error: |accuracy − confidence| over {CALIBRATION_BINS} bins of "
            "equal width, weighted by their images.",
        ),
        *CURVES,
        *STATS,
        MetricDef("flops_error", "share", None, "train_flops over flops_budget, less 1."),
        MetricDef(
            "depends_on_batch",
            "",
            "lower",
            "1 if an image's answer depends on the other images in its batch, else 0.",
        ),
    )

    def measure(self, subject: TrialSubject) -> Iterator[Metric | Array]:
        batches, depends = [], None
        for batch in subject.run(subject.model, "test"):
            batches.append((batch.logits.double().cpu(), batch.labels.cpu()))
            if depends is None and batch.routings:
                depends = depends_on_batch(subject, batch)
        logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        yield Metric("top1", top_k_accuracy(logits, labels, 1), split="test")
        if subject.num_classes >= TOP5_CLASSES:
            yield Metric("top5", top_k_accuracy(logits, labels, 5), split="test")
        yield Metric("nll", float(cross_entropy(logits, labels)), split="test")
        yield Metric("ece", calibration_error(logits, labels), split="test")
        if depends is not None:
            yield Metric("depends_on_batch", float(depends), split="test")
        curves = {curve.name for curve in CURVES}
        for point in subject.history:
            if point.name in curves:
                where = {"flops": point.flops, "seconds": point.seconds}
                yield Metric(point.name, point.value, None, point.step, point.split, where)
        stats = subject.stats
        for definition in STATS:
            if definition.name in stats:
                yield Metric(definition.name, float(stats[definition.name]))
        if "flops_budget" in stats:
            yield Metric("flops_error", stats["train_flops"] / stats["flops_budget"] - 1)


def depends_on_batch(subject: TrialSubject, batch: Observed) -> bool:
    """Tell whether the answers on the first half of a batch change with the images of the rest.

    They cannot if no group of any layer holds tokens of two images. Otherwise the rest is replaced
    by its negative, which keeps the shapes and so the rounding.
    """
    if batch.within_images:
        return False
    half = -(-len(batch.labels) // 2)
    changed = torch.cat([batch.images[:half], -batch.images[half:]])
    answers = subject.answers(subject.model, changed, {})[:half]
    return not torch.allclose(answers, batch.logits[:half].to(answers), rtol=CLOSE, atol=CLOSE)


def top_k_accuracy(logits: Tensor, labels: Tensor, k: int) -> float:
    """Return the share of (n, classes) logits whose k largest include the label, (n,)."""
    right = (logits.topk(k).indices == labels.unsqueeze(1)).any(1)
    return float(right.double().mean())


def calibration_error(logits: Tensor, labels: Tensor, bins: int = CALIBRATION_BINS) -> float:
    """Compute ECE = Σ_b (n_b / n) · |accuracy_b − confidence_b| of n answers (1706.04599).

    Bin b holds the confidences, highest probabilities, in (b/bins, (b + 1)/bins].
    """
    confidence, answer = logits.double().softmax(-1).max(-1)
    index = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    excess = (answer == labels).double() - confidence
    per_bin = excess.new_zeros(bins).index_add_(0, index, excess)
    return float(per_bin.abs().sum() / len(labels))
