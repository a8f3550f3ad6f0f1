"""The subjects that suites measure: a trained trial, or ways to build a bare layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from bench.compute import count_flops, model_stats
from bench.config import DENSE, Options, RouterConfig, TrialSpec
from bench.data import Dataset, ShapedData, load_weights
from bench.model import (
    EXPERTS,
    MoELayer,
    Replaced,
    ReplacedMLP,
    autocast,
    build_experts,
    forward_pass,
    moe_layers,
    moe_seed,
    reweighted,
    seeded,
    site_of,
    trial_model,
    widen,
)
from bench.train import Outcome, SavedSnapshot, observe
from routers import ROUTERS, Baseline, BenchError, build_router
from suites.support.subject import HistoryPoint, Observed


class TrainedTrial:
    """A finished training as a `suites.support.subject.TrialSubject`.

    Args:
        spec: the trial.
        dataset: what it was trained on.
        outcome: how its training ended.
        device: where it is measured.
    """

    def __init__(
        self, spec: TrialSpec, dataset: Dataset, outcome: Outcome, device: torch.device
    ) -> None:
        self._spec, self._dataset, self._outcome = spec, dataset, outcome
        self.device = device
        self.class_names = dataset.classes
        self.num_classes = dataset.num_classes
        self.num_experts = spec.experts.num_experts
        self.attribute_names = dataset.attributes
        self.history: list[HistoryPoint] = outcome.history
        self.snapshots = [StoredSnapshot(self, saved) for saved in outcome.snapshots]

    @cached_property
    def model(self) -> nn.Module:
        """The model with its final weights, in eval mode.

        Raises:
            BenchError: the training did not end, or its checkpoint is not as it was written.
        """
        final = self._outcome.final
        if final is None:
            raise BenchError(f"the training {self._outcome.status}: {self._outcome.error}")
        return self.load(final)

    def load(self, saved: SavedSnapshot) -> nn.Module:
        """Load the model with the weights of a snapshot, in eval mode, on `device`."""
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


@dataclass(frozen=True)
class StoredSnapshot:
    """A snapshot on disk as a `suites.support.subject.Snapshot`."""

    trial: TrainedTrial
    saved: SavedSnapshot

    @property
    def step(self) -> int:
        return self.saved.step

    @property
    def flops(self) -> float:
        return self.saved.flops

    @property
    def seconds(self) -> float:
        return self.saved.seconds

    def load(self) -> nn.Module:
        """Load the model with these weights, in eval mode, on the subject's device."""
        return self.trial.load(self.saved)


class LayerOfTrial:
    """Layers and models of a trial before training, as a suite's `LayerSubject`.

    Args:
        spec: the trial; only its seed, twin, router, experts and model matter.
        data: the shape of the model's images.
        device: where everything is built.
    """

    def __init__(self, spec: TrialSpec, data: ShapedData, device: torch.device) -> None:
        self._spec, self._data = spec, data
        self.device = device
        self.router_name = spec.router.name
        self.image_shape = data.image_shape
        self.num_experts = spec.experts.num_experts
        replaced, self.tokens = self._replaced()
        self.dim = replaced.dim
        self.hidden = spec.experts.options.get("hidden") or replaced.hidden
        self.replaces_mlps = isinstance(replaced, ReplacedMLP)

    def layer(self, batch: int, tokens: int, dim: int, hidden: int, num_experts: int) -> nn.Module:
        """Build the router's MoE layer, or the baseline's MLP: (batch, tokens, dim) to the same."""
        seed = moe_seed(self._spec.seed, self._spec.twin)
        with seeded(seed):
            router = self._spec.router
            target = ROUTERS.get(router.name).target
            if issubclass(target, Baseline):
                block = nn.ModuleDict({"mlp": self.mlp(dim, hidden)})
                if target.widen:
                    widen(
                        block,
                        layers="all",
                        experts=self._spec.experts.name,
                        num_experts=num_experts,
                        experts_options=self._options_without_width(),
                        seed=seed,
                    )
                return block["mlp"].to(self.device)
            groups = self._spec.model.groups
            named = {"image": tokens, "batch": batch * tokens}
            in_group = named[groups] if isinstance(groups, str) else groups
            experts = build_experts(
                self._spec.experts.name,
                num_experts=num_experts,
                replaced=ReplacedMLP(dim, hidden),
                **self._options_without_width(),
            )
            gate = build_router(
                router.name,
                dim=dim,
                num_experts=num_experts,
                tokens=in_group,
                site=site_of(experts),
                **router.options,
            )
            return MoELayer(gate, experts, groups).to(self.device)

    def mlp(self, dim: int, hidden: int) -> nn.Module:
        """Build a dense MLP of the same kind as one expert: (…, dim) to the same."""
        from timm.layers.mlp import Mlp

        return Mlp(dim, hidden).to(self.device)

    def dense_rows(self, layer: nn.Module, mlp: nn.Module, x: Tensor) -> int:
        """Return the rows on which `mlp` runs the FLOPs of a layer's experts, or a baseline's."""
        if isinstance(layer, MoELayer):
            with torch.no_grad(), forward_pass(layer) as routings:
                layer(x)
            return layer.experts.rows(routings[0])
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
        solved = {width} if f"experts.options.{width}" in self._spec.found else set()
        return {
            name: value
            for name, value in experts.options.items()
            if name not in {"hidden", *solved}
        }

    def _replaced(self) -> tuple[Replaced, int]:
        """Return what the model's first MoE layer replaces, and the tokens of an image there.

        Read off a model with a router that takes any shape, since baselines have no such layer.
        """
        model = self._spec.model.model_copy(update={"groups": "image"})
        spec = self._spec.model_copy(update={"model": model})
        built = trial_model(spec, self._data, router=RouterConfig(name="random"))
        layer = next(iter(moe_layers(built).values()))
        assert layer.router.tokens is not None  # groups are images
        return layer.experts.replaced, layer.router.tokens
