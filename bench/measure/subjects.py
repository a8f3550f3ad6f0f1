"""What suites measure: a trained trial, or a bare layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from bench.compute import count_flops, model_stats
from bench.config import DENSE, Options, RouterConfig, TrialSpec
from bench.data import Dataset, ShapedData, load_weights, normalise
from bench.measure.running import transfer_set
from bench.model import (
    EXPERTS,
    Calibration,
    MoELayer,
    ReplacedMLP,
    autocast,
    build_experts,
    forward_pass,
    moe_layers,
    moe_seed,
    prune,
    refuse_undefined,
    reweighted,
    seeded,
    shares_by,
    site_of,
    trial_model,
    widen,
)
from bench.train import Outcome, SavedSnapshot, observe
from routers import ROUTERS, Baseline, BenchError, build_router
from routers.errors import UndefinedError
from suites.support.subject import HistoryPoint, Observed


@dataclass(frozen=True)
class StoredSnapshot:
    """A snapshot on disk as a `suites.support.subject.Snapshot`."""

    step: int
    flops: float
    seconds: float
    load: Callable[[], nn.Module]


class TrainedTrial:
    """A finished training as a `suites.support.subject.TrialSubject`, on the device given."""

    def __init__(
        self, spec: TrialSpec, dataset: Dataset, outcome: Outcome, device: torch.device
    ) -> None:
        self._spec, self._dataset, self._outcome = spec, dataset, outcome
        self.device = device
        self.class_names = dataset.classes
        self.num_classes = dataset.num_classes
        self.num_experts = spec.experts.num_experts
        self.attribute_names = dataset.attributes
        self.derived = spec.parent is not None
        self.history: list[HistoryPoint] = outcome.history
        self.snapshots = [
            StoredSnapshot(saved.step, saved.flops, saved.seconds, partial(self._load, saved))
            for saved in outcome.snapshots
        ]

    @cached_property
    def model(self) -> nn.Module:
        """The model with its final weights, in eval mode.

        Raises:
            BenchError: the training did not end, or its checkpoint is not as it was written.
        """
        final = self._outcome.final
        if final is None:
            raise BenchError(f"the training {self._outcome.status}: {self._outcome.error}")
        return self._load(final)

    def start(self) -> nn.Module:
        """Load the model as it was before its first step, in eval mode.

        Raises:
            UndefinedError: it was derived, and no snapshot was kept of its start.
        """
        first = self._outcome.snapshots[0]
        if first.step == 0:
            return self._load(first)
        if self.derived:
            raise UndefinedError(
                "no weights were kept from before the first step of a derived trial; set "
                "train.snapshots to 2 or more"
            )
        return trial_model(self._spec, self._dataset).to(self.device).eval()

    def _load(self, saved: SavedSnapshot) -> nn.Module:
        model = trial_model(self._spec, self._dataset)
        load_weights(model, self._outcome.folder / saved.file, saved.sha256)
        return model.to(self.device).eval()

    def run(
        self, model: nn.Module, split: str, batch_size: int | None = None
    ) -> Iterator[Observed]:
        """Run the model on every image of a split, by default in batches of the training's size."""
        return observe(
            model,
            self._dataset,
            split,
            batch_size=batch_size or self._spec.train.batch_size,
            device=self.device,
            precision=self._spec.train.precision,
        )

    def attribute(self, split: str) -> Tensor | None:
        """Return (n,) long: the protected attribute's value of each image of a split, in order."""
        return self._dataset.splits[split].attribute

    @property
    def has_features(self) -> bool:
        """Whether the model has pooled features before its classifier, as timm's have."""
        return hasattr(self.model, "forward_features") and hasattr(self.model, "forward_head")

    def features(self, data: str, split: str) -> tuple[Tensor, Tensor]:
        """Compute pooled features of another data set, normalised as the model's own images."""
        model, rows, labels = self.model, [], []
        batches = transfer_set(data, self._dataset).splits[split]
        for pixels, own in batches.batches(self._spec.train.batch_size):
            with (
                torch.no_grad(),
                autocast(self._spec.train.precision, self.device),
                forward_pass(model),
            ):
                images = normalise(pixels.to(self.device), self._dataset)
                # timm's convention; its type stubs know no model's own methods.
                pooled = model.forward_head(model.forward_features(images), pre_logits=True)  # type: ignore[operator]
            rows.append(pooled.float().cpu())
            labels.append(own.cpu())
        return torch.cat(rows), torch.cat(labels)

    def answers(self, model: nn.Module, images: Tensor, factors: Mapping[int, Tensor]) -> Tensor:
        """Compute logits of normalised images, with experts reweighted by the MoE layer's index."""
        layers = list(moe_layers(model).values())
        on_device = {index: values.to(self.device) for index, values in factors.items()}
        precision = self._spec.train.precision
        with (
            torch.no_grad(),
            autocast(precision, self.device),
            forward_pass(model),  # routers see what they see in `run`
            reweighted(layers, on_device),
        ):
            logits: Tensor = model(images)
        return logits.float()

    def pruned(self, rule: str, experts: int, seed: int = 0) -> nn.Module:
        """Build the model with fewer experts, those that a rule keeps or merges, in eval mode."""
        calibration = self._calibration
        if seed:
            calibration = replace(calibration, seed=seed)
        layers, spec = calibration.layers, self._spec
        for layer in layers:
            refuse_undefined(layer)
        options = layers[0].router.options_with(experts) if layers else {}
        fewer = {
            "router": spec.router.model_copy(update={"options": options}),
            "experts": spec.experts.model_copy(update={"num_experts": experts}),
        }
        smaller = trial_model(spec.model_copy(update=fewer), self._dataset)
        prune(self.model, smaller, shares_by(rule, calibration, experts))
        return smaller.to(self.device).eval()

    @cached_property
    def _calibration(self) -> Calibration:
        size = self._spec.train.batch_size
        return Calibration(self.model, self.start, self._dataset, size)

    def flops_per_image(self, model: nn.Module) -> float:
        """Count the FLOPs of an image, forward, on the first batch of the validation split."""
        return model_stats(model, next(self.run(model, "val")))["flops_per_image"]

    @cached_property
    def stats(self) -> dict[str, float]:
        """Single numbers on the compute of the training, and the model's (see `model_stats`)."""
        outcome = self._outcome
        return {
            "steps": float(outcome.steps),
            "train_flops": outcome.flops,
            "step_flops": outcome.flops / outcome.steps,
            "flops_budget": outcome.flops_budget,
            "budget": outcome.budget,
            "budget_error": outcome.budget_error,
            "within_tolerance": float(outcome.within_tolerance),
            "train_seconds": outcome.seconds,
            **model_stats(self.model, next(self.run(self.model, "val"))),
        }


class LayerOfTrial:
    """Layers and models of a trial before training, as a suite's `LayerSubject`.

    Args:
        spec: the trial; only its seed, twin, router, experts and model matter.
        data: the shape of the model's images.
    """

    def __init__(self, spec: TrialSpec, data: ShapedData, device: torch.device) -> None:
        self._spec, self._data = spec, data
        self.device = device
        self.router_name = spec.router.name
        self.image_shape = data.image_shape
        self.num_experts = spec.experts.num_experts
        layer = layers_by_image(spec, data)[0]
        assert layer.router.tokens is not None  # groups are images
        self.tokens, replaced = layer.router.tokens, layer.experts.replaced
        self.dim = replaced.dim
        self.hidden = spec.experts.options.get("hidden") or replaced.hidden
        self.replaces_mlps = isinstance(replaced, ReplacedMLP)

    def layer(self, batch: int, tokens: int, dim: int, hidden: int, num_experts: int) -> nn.Module:
        """Build the router's MoE layer, or the baseline's MLP: (batch, tokens, dim) to the same."""
        seed, router = moe_seed(self._spec.seed, self._spec.twin), self._spec.router
        target, options = ROUTERS.get(router.name).target, self._options_without_width()
        with seeded(seed):
            if issubclass(target, Baseline):
                block = nn.ModuleDict({"mlp": self.mlp(dim, hidden)})
                if target.widen:
                    widen(
                        block,
                        layers="all",
                        experts=self._spec.experts.name,
                        num_experts=num_experts,
                        experts_options=options,
                        seed=seed,
                        shared=self._spec.experts.shared,
                    )
                return block["mlp"].to(self.device)
            groups = self._spec.model.groups
            named = {"image": tokens, "batch": batch * tokens}
            in_group = named[groups] if isinstance(groups, str) else groups
            make = partial(
                build_experts,
                self._spec.experts.name,
                replaced=ReplacedMLP(dim, hidden),
                **options,
            )
            experts, shared = make(num_experts=num_experts), self._spec.experts.shared
            gate = build_router(
                router.name,
                dim=dim,
                num_experts=num_experts,
                tokens=in_group,
                site=site_of(experts, self._data.num_classes),
                **router.options,
            )
            also = make(num_experts=shared) if shared else None
            return MoELayer(gate, experts, groups, also).to(self.device)

    def mlp(self, dim: int, hidden: int) -> nn.Module:
        """Build a dense MLP of the same kind as one expert: (…, dim) to the same."""
        from timm.layers.mlp import Mlp

        return Mlp(dim, hidden).to(self.device)

    def dense_rows(self, layer: nn.Module, mlp: nn.Module, x: Tensor) -> int:
        """Return the rows on which `mlp` runs the FLOPs of a layer's experts, or a baseline's."""
        if isinstance(layer, MoELayer):
            with torch.no_grad(), forward_pass(layer) as routings:
                layer(x)
            shared = 0 if layer.shared is None else layer.shared.num_experts
            return layer.experts.rows(routings[0]) + shared * x.shape[:-1].numel()
        ratio = count_flops(layer, x).total / count_flops(mlp, x).total
        return round(ratio * x.shape[:-1].numel())

    def model(self) -> nn.Module:
        """Build the whole model, untrained: (n, c, h, w) to (n, classes)."""
        return trial_model(self._spec, self._data).to(self.device)

    def dense_model(self) -> nn.Module:
        """Build the model without MoE layers, untrained."""
        return trial_model(self._spec, self._data, router=DENSE).to(self.device)

    def _options_without_width(self) -> Options:
        """Return the experts' options without a width solved for the model's own layers."""
        experts = self._spec.experts
        width = EXPERTS.get(experts.name).target.width
        own = {"hidden"} | ({width} if f"experts.options.{width}" in self._spec.found else set())
        return {name: value for name, value in experts.options.items() if name not in own}


def layers_by_image(spec: TrialSpec, data: ShapedData) -> list[MoELayer]:
    """List a model's MoE layers, with the tokens of an image as groups, of which any number fits.

    Their router is another one that takes any shape, since baselines have no such layer.
    """
    model = spec.model.model_copy(update={"groups": "image"})
    spec = spec.model_copy(update={"model": model})
    return list(moe_layers(trial_model(spec, data, router=RouterConfig(name="random"))).values())
