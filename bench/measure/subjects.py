"""Subjects of trial suites: a trained trial."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from bench.compute import model_stats
from bench.config import TrialSpec
from bench.data import Dataset, Split, load_weights, normalise
from bench.measure.running import transfer_set
from bench.model import (
    Calibration,
    autocast,
    forward_pass,
    moe_layers,
    prune,
    refuse_undefined,
    reweighted,
    shares_by,
    trial_model,
)
from bench.train import Outcome, SavedSnapshot, observe
from routers import BenchError
from routers.errors import UndefinedError
from suites.support.subject import HistoryPoint, Observed


@dataclass(frozen=True)
class StoredSnapshot:
    """A snapshot on disk, as a `suites.support.subject.Snapshot`."""

    step: int
    flops: float
    seconds: float
    load: Callable[[], nn.Module]


class TrainedTrial:
    """A finished training run, as a `suites.support.subject.TrialSubject`, on a given device."""

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
            BenchError: training did not finish, or its checkpoint is not as it was written.
        """
        final = self._outcome.final
        if final is None:
            raise BenchError(f"the training {self._outcome.status}: {self._outcome.error}")
        return self._load(final)

    def start(self) -> nn.Module:
        """Load the model as it was before its first step, in eval mode.

        Raises:
            UndefinedError: it is derived, and no snapshot of its start was kept.
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
        self,
        model: nn.Module,
        split: str,
        batch_size: int | None = None,
        places: Tensor | None = None,
    ) -> Iterator[Observed]:
        """Run the model on a split, or only on the images at some places in it.

        Batches have the size used in training by default.
        """
        dataset = self._dataset
        if places is not None:
            whole = dataset.splits[split]
            part = Split(whole.fetch(places), whole.labels[places])
            dataset = replace(dataset, splits={**dataset.splits, split: part})
        return observe(
            model,
            dataset,
            split,
            batch_size=batch_size or self._spec.train.batch_size,
            device=self.device,
            precision=self._spec.train.precision,
        )

    def attribute(self, split: str) -> Tensor | None:
        """Return (n,) long: the protected attribute of each image of a split; None without one."""
        return self._dataset.splits[split].attribute

    def labels_of(self, split: str) -> Tensor:
        """Return (n,) long: the class of each image of a split, in order."""
        return self._dataset.splits[split].labels

    @property
    def has_features(self) -> bool:
        """Whether the model has pooled features before its classifier, as timm models have."""
        return hasattr(self.model, "forward_features") and hasattr(self.model, "forward_head")

    def features(self, data: str, split: str) -> tuple[Tensor, Tensor]:
        """Return pooled features and labels of another data set, normalised as in training."""
        model, rows, labels = self.model, [], []
        batches = transfer_set(data, self._dataset).splits[split]
        for pixels, own in batches.batches(self._spec.train.batch_size):
            with (
                torch.no_grad(),
                autocast(self._spec.train.precision, self.device),
                forward_pass(model),
            ):
                images = normalise(pixels.to(self.device), self._dataset)
                # timm's convention; its type stubs do not know a model's own methods.
                pooled = model.forward_head(model.forward_features(images), pre_logits=True)  # type: ignore[operator]
            rows.append(pooled.float().cpu())
            labels.append(own.cpu())
        return torch.cat(rows), torch.cat(labels)

    def answers(self, model: nn.Module, images: Tensor, factors: Mapping[int, Tensor]) -> Tensor:
        """Return logits of normalised images; `factors` reweights experts by MoE layer index."""
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
        """Build the model with only the experts that a rule keeps or merges, in eval mode."""
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
        """Count the forward FLOPs per image, on the first batch of the validation split."""
        return model_stats(model, next(self.run(model, "val")))["flops_per_image"]

    @cached_property
    def stats(self) -> dict[str, float]:
        """Single numbers on the compute of training, and those of the model (see `model_stats`)."""
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
