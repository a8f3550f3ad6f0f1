"""Throughput of a bare MoE layer and of the whole model, against dense ones, in one process.

The dense counterpart of a layer is an MLP of one expert's shape, run on as many rows as take the
experts' FLOPs: the slots that they run, g · E · s, used or not, read off the routing; or the tokens
if all experts together have the parameters of that MLP and are factors of one product. So

    overhead = median time of the layer / median time of its dense counterpart

is what routing, dispatching and combining cost, or factorising. A model's dense counterpart is the
same model without MoE layers. Inputs are standard normal, weights untrained, all float32.
"""

from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from routers.hyper import hyper
from suites.support.base import Array, Metric, MetricDef, Suite, register_suite
from suites.support.subject import LayerSubject
from suites.support.system_load import QuietTimer
from suites.support.timing import (
    PASSES,
    Pass,
    fixed_conditions,
    interleaved,
    kept_for_backward,
    one_pass,
    peak_memory,
    ratio_interval,
    router_calls,
)

ShapeName = Literal["A", "B"]


@dataclass(frozen=True)
class Shape:
    """A shape to time: (batch, tokens, dim) inputs, and the experts."""

    shape: str
    batch: int
    tokens: int
    dim: int
    hidden: int
    num_experts: int


SHAPES: dict[ShapeName, tuple[int, int, int, int]] = {
    "A": (8, 196, 384, 1536),
    "B": (64, 49, 96, 192),
}
"""Images, tokens per image, width, hidden width of an expert."""

MANY_REPEATS = 1000
"""Number of repeats from which the 99th percentile is meaningful."""


RATE: dict[Pass, str] = {"forward": "", "train": "train_"}
"""Prefixes of the names of rates, memory and loads, by pass."""


def _definitions(name: Pass, what: str) -> tuple[MetricDef, ...]:
    rate = RATE[name]
    return (
        MetricDef(f"{name}_ms", "ms", "lower", f"Time of {what}; quantile 0.5 is the median."),
        MetricDef(f"{name}_dense_ms", "ms", None, f"The dense counterpart's median for {what}."),
        MetricDef(
            f"{name}_overhead",
            "",
            "lower",
            f"Median time of {what} over that of the dense counterpart: for a layer, an MLP that "
            "runs the experts' FLOPs; for a model, the one without MoE layers.",
        ),
        MetricDef(f"{name}_overhead_low", "", None, "Lower end of its 95 % bootstrap interval."),
        MetricDef(f"{name}_overhead_high", "", None, "Upper end of its 95 % bootstrap interval."),
        MetricDef(f"{name}_repeats", "repeats", None, f"Timed repeats of {what}."),
        MetricDef(f"{name}_dense_rows", "rows", None, "Rows of the dense MLP, to match FLOPs."),
        MetricDef(f"{rate}tokens_per_s", "tokens/s", "higher", f"Median rate of {what}."),
        MetricDef(f"{rate}images_per_s", "images/s", "higher", f"Median rate of {what}."),
        MetricDef(
            f"{rate}peak_memory_bytes",
            "B",
            "lower",
            f"Peak memory in {what}, parameters included; if the device reports it.",
        ),
        MetricDef(
            f"{rate}other_load",
            "cores",
            "lower",
            f"Cores that other processes kept busy while {what} was timed; if it took long enough "
            "to tell.",
        ),
        MetricDef(
            f"{rate}other_gpu_load",
            "share",
            "lower",
            f"Share of time in which others used the GPU, just after {what} was timed.",
        ),
        MetricDef(
            f"{rate}disturbed",
            "",
            "lower",
            f"1 if other processes did more than max_load allows while {what} was timed, else 0; "
            "absent if any load is allowed.",
        ),
    )


@register_suite("throughput", family="speed", source="arXiv 2401.15969")
class Throughput(Suite[LayerSubject]):
    """Time of a forward pass and of a forward and backward pass, and what routing adds to it.

    `where` gives `scope` ("layer" or "model"), the shape and the threads. Repeats alternate with
    those of the dense counterpart. The defaults take seconds. For publishable results use
    `shapes = ["A", "B"]`, `seconds = 10` and `min_repeats = 50`. If other processes disturb a
    comparison, it is repeated a few times; the least disturbed one counts, with their load.
    """

    on = "layer"
    main_metric = "forward_overhead"
    main_where = {"scope": "layer", "shape": "B"}  # noqa: RUF012
    metrics = (
        *_definitions("forward", "a forward pass"),
        *_definitions("train", "a forward and backward pass"),
        MetricDef("router_forward_ms", "ms", "lower", "Median forward time of the routers alone."),
        MetricDef("parameter_bytes", "B", "lower", "Size of the weights of the layer or model."),
        MetricDef(
            "kept_bytes",
            "B",
            "lower",
            "What a training pass keeps for its backward pass, including its input but no weights.",
        ),
    )

    shapes: list[ShapeName] = hyper(
        ["B"], "For a bare layer: A is 8 × 196 × 384 with 1536 hidden, B 64 × 49 × 96 with 192."
    )
    experts: int | None = hyper(None, "Experts of a bare layer; None takes the model's.", ge=1)
    sweep_experts: list[int] = hyper([], "Also time each shape with these numbers of experts.")
    sweep_tokens: list[int] = hyper([], "Also time each shape with these numbers of tokens.")
    sweep_batch: list[int] = hyper([], "Also time each shape with these numbers of images.")
    model_batch: int = hyper(32, "Images for the whole model; 0 leaves it out.", ge=0)
    seconds: float = hyper(0.5, "Time for the repeats of one comparison.", ge=0)
    min_repeats: int = hyper(5, "Minimum repeats of one comparison.", ge=1)
    max_repeats: int = hyper(1000, "Maximum repeats of one comparison.", ge=1)
    threads: int = hyper(1, "Torch's threads on a CPU.", ge=1)
    max_load: float | None = hyper(
        0.25,
        "Cores that others may keep busy (at least a twentieth of all, half with a GPU) before a "
        "timing is marked as disturbed; None allows any load.",
        ge=0,
    )

    def measure(self, subject: LayerSubject) -> Iterator[Metric | Array]:
        timer = QuietTimer(subject.device, self.max_load)
        # Shapes are those of MLPs; experts that replace anything else are timed in the model.
        for shape in self.points(subject.num_experts) if subject.replaces_mlps else ():
            yield from self.of_layer(subject, shape, timer)
        if self.model_batch:
            yield from self.of_model(subject, timer)

    def points(self, num_experts: int) -> list[Shape]:
        """Return the shapes, and around each the points of the sweeps, without repetition."""
        sweeps = (
            ("num_experts", self.sweep_experts),
            ("tokens", self.sweep_tokens),
            ("batch", self.sweep_batch),
        )
        points: list[Shape] = []
        for name in self.shapes:
            base = Shape(name, *SHAPES[name], self.experts or num_experts)
            points.append(base)
            points += [
                replace(base, shape=f"{name} {axis}={value}", **{axis: value})
                for axis, values in sweeps
                for value in values
                if value != getattr(base, axis)
            ]
        return points

    def of_layer(self, subject: LayerSubject, shape: Shape, timer: QuietTimer) -> Iterator[Metric]:
        """Measure a bare layer at one shape."""
        _, *sizes = astuple(shape)
        layer = subject.layer(*sizes).to(subject.device)
        mlp = subject.mlp(shape.dim, shape.hidden).to(subject.device)
        # Inside a network the gradient goes on to the layers below.
        x = noise(subject.device, shape.batch, shape.tokens, shape.dim).requires_grad_()
        where = {"scope": "layer", **asdict(shape)}
        for name in PASSES:
            rows = subject.dense_rows(layer.train(name == "train"), mlp, x)
            dense_x = noise(subject.device, rows, shape.dim).requires_grad_()
            yield Metric(f"{name}_dense_rows", rows, where=where)
            yield from self.compare(name, (layer, x), (mlp, dense_x), where, timer)

    def of_model(self, subject: LayerSubject, timer: QuietTimer) -> Iterator[Metric]:
        """Measure the whole model."""
        sizes = (subject.tokens, subject.dim, subject.hidden, subject.num_experts)
        shape = Shape("model", self.model_batch, *sizes)
        model = subject.model().to(subject.device)
        dense = subject.dense_model().to(subject.device)
        images = noise(subject.device, self.model_batch, *subject.image_shape)
        where = {"scope": "model", **asdict(shape)}
        for name in PASSES:
            yield from self.compare(name, (model, images), (dense, images), where, timer)

    def compare(
        self,
        name: Pass,
        ours: tuple[nn.Module, Tensor],
        dense: tuple[nn.Module, Tensor],
        where: dict[str, Any],
        timer: QuietTimer,
    ) -> Iterator[Metric]:
        """Time our pass and the dense counterpart's in turn; each is a module and its input."""
        run = one_pass(name, *ours)
        runs = {"ours": run, "dense": one_pass(name, *dense)}
        calls = router_calls(*ours) if name == "forward" else []
        if calls:
            runs["router"] = torch.no_grad()(lambda: [call() for call in calls])
        device = ours[1].device

        def times() -> dict[str, np.ndarray]:
            limits = (self.seconds, self.min_repeats, self.max_repeats)
            with fixed_conditions(self.threads):
                return interleaved(runs, device, *limits)

        made = timer.time(times)
        where = {**where, "threads": self.threads}
        yield from timed(name, made.result, where)
        others = {
            "other_load": made.cores,
            "other_gpu_load": made.gpu,
            "disturbed": float(made.disturbed) if timer.judges else None,
        }
        for what, value in others.items():
            if value is not None:
                yield Metric(f"{RATE[name]}{what}", value, where=where)
        parameters = sum(p.nbytes for p in ours[0].parameters())
        if name == "forward":
            yield Metric("parameter_bytes", parameters, where=where)
        else:
            with kept_for_backward(ours[0]) as kept:
                run()
            yield Metric("kept_bytes", sum(kept.values()), where=where)
        if device.type == "cuda":
            value = parameters + peak_memory(run, device)
            yield Metric(f"{RATE[name]}peak_memory_bytes", value, where=where)


def timed(name: Pass, times: dict[str, np.ndarray], where: dict[str, Any]) -> Iterator[Metric]:
    """Summarise the repeats of one comparison.

    Args:
        times: milliseconds of each repeat for "ours", "dense", and "router" if there is one.
        where: includes "batch", and "tokens" per image.
    """
    ours, dense = times["ours"], times["dense"]
    for quantile in (0.5, 0.9, 0.99) if len(ours) >= MANY_REPEATS else (0.5, 0.9):
        value = float(np.quantile(ours, quantile))
        yield Metric(f"{name}_ms", value, where={**where, "quantile": quantile})
    median, dense_median = float(np.median(ours)), float(np.median(dense))
    low, high = ratio_interval(ours, dense)
    images_per_s = 1e3 * where["batch"] / median
    values = {
        f"{name}_dense_ms": dense_median,
        f"{name}_overhead": median / dense_median,
        f"{name}_overhead_low": low,
        f"{name}_overhead_high": high,
        f"{name}_repeats": len(ours),
        f"{RATE[name]}images_per_s": images_per_s,
        f"{RATE[name]}tokens_per_s": images_per_s * where["tokens"],
    }
    if "router" in times:
        values["router_forward_ms"] = float(np.median(times["router"]))
    for metric, value in values.items():
        yield Metric(metric, value, where=where)


def noise(device: torch.device, *shape: int) -> Tensor:
    """Draw standard normal float32 inputs, the same for every router."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
