"""A trial and its sections as validated plain data."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

Options = dict[str, Any]
Match = Literal["total_flops", "step_flops", "params", "wall_clock", "steps"]


class Config(BaseModel):
    """The base class of all settings: frozen, and without unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject input such as `seeds: yes`, which pydantic would read as 1."""
        name = str(info.field_name)
        values = value.values() if isinstance(value, dict) else [value]
        if any(isinstance(each, bool) for each in values) and not _takes_bool(
            cls.model_fields[name].annotation
        ):
            raise ValueError(f"{name} = {value} is yes or no, but must be something else")
        return value


def _takes_bool(annotation: Any) -> bool:
    """Tell whether a field accepts a bool, itself or nested inside its value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True  # its own fields are checked on their own
    return annotation in (bool, Any) or any(map(_takes_bool, get_args(annotation)))


class AugmentConfig(Config):
    """The augmentation of training images, seeded by trial seed, epoch and image."""

    crop_padding: int = Field(default=0, ge=0)
    """Pixels of padding before a random crop."""
    flip: bool = False
    """Whether to flip images horizontally at random."""
    randaugment: str | None = None
    """RandAugment policy in timm's syntax, such as `rand-m9-mstd0.5`."""


class DataConfig(Config):
    """A data set by name, and the shape to convert its images to."""

    name: str = "fashion_mnist_mini"
    """`digits`, `cifar100`, `timm:NAME`, …"""
    data_dir: str | None = None
    """The folder that already holds its files."""
    image_size: int | None = Field(default=None, ge=1)
    """Pixels per side; None keeps equally sized squares as they are, and scales other images to the
    model's size."""
    channels: int | None = Field(default=None, ge=1)
    """1 or 3; None keeps the number of the images."""
    augment: AugmentConfig = AugmentConfig()


class ModelConfig(Config):
    """A timm model, and which of its blocks get an MoE layer."""

    name: str = "vit_tiny_patch16_224"
    options: Options = {}
    """Passed to `timm.create_model`."""
    weights: str | None = None
    """A file with pretrained weights of this timm model."""
    layers: Literal["last2", "every2", "all", "every_mlp", "head"] | tuple[int, ...] = "last2"
    """Blocks whose MLP becomes an MoE layer; "head" replaces the model's last layer instead."""
    groups: Literal["image", "batch"] | Annotated[int, Field(ge=1)] = "image"
    """Tokens that are routed together: those of an image, of the batch, or a fixed number."""


class ExpertsConfig(Config):
    """The functions behind the slots of every MoE layer."""

    name: str = "mlp"
    num_experts: int = Field(default=8, ge=1)
    options: Options = {}
    shared: int = Field(
        default=0,
        ge=0,
        exclude_if=lambda number: number == 0,
        description="Experts besides the routed ones, which process every token.",
    )


class RouterConfig(Config):
    """A router with every hyper-parameter resolved."""

    name: str
    options: Options = {}


DENSE = RouterConfig(name="dense")


class TrainConfig(Config):
    """The recipe of one training."""

    epochs: float = Field(default=10, gt=0)
    """Epochs of the dense model; the FLOPs that it spends in them are the budget."""
    batch_size: int = Field(default=128, ge=1)
    micro_batches: int = Field(default=1, ge=1, exclude_if=lambda parts: parts == 1)
    """Parts that each batch, or a rank's share of it, is split into and processed in sequence, to
    save memory."""
    ranks: int = Field(default=1, ge=1, exclude_if=lambda number: number == 1)
    """Processes that share each batch, each on its own GPU."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps with linear warmup; cosine decay follows."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Maximum norm of the gradient; None does not clip."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the exponential moving average of the weights; None does not average."""
    losses: dict[str, float] = {}
    """Weight of each auxiliary loss."""
    loss_options: dict[str, Options] = {}
    snapshots: int = Field(default=5, ge=0)
    """Snapshots of the weights, equally spaced in FLOPs, the initial weights included."""
    evaluations: int = Field(default=10, ge=1)
    """Evaluations on the validation split during training."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of autocast."""


class ComputeConfig(Config):
    """The quantity that is made equal between routers; see `bench.compute.budget`."""

    match: Match = "total_flops"
    """Quantity to match: total_flops, wall_clock and steps by the number of steps; step_flops and
    params by the width of the experts."""
    seconds: float | None = Field(default=None, gt=0, exclude_if=lambda seconds: seconds is None)
    """Seconds of training without evaluations: the budget of wall_clock."""
    tolerance: float = Field(default=0.01, gt=0)
    """Relative; one step (total_flops) or one segment (wall_clock) is allowed in any case."""

    @model_validator(mode="after")
    def _seconds_of_wall_clock(self) -> Self:
        if self.match == "wall_clock" and self.seconds is None:
            raise ValueError(
                "compute.match = wall_clock needs a budget: set compute.seconds, as in "
                "compute.seconds=600"
            )
        if self.match != "wall_clock" and self.seconds is not None:
            raise ValueError(
                f"compute.seconds = {self.seconds:g} is the budget of compute.match = wall_clock, "
                f"and this is {self.match}: leave out one of the two"
            )
        return self


class TrialSpec(Config):
    """One training run as plain data; `model_dump(mode="json")` gives its description.

    A trial may be derived: a registered transform starts it from its parent's trained weights.
    """

    router: RouterConfig
    experts: ExpertsConfig
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    compute: ComputeConfig
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Below 2³², since torch and NumPy take seeds modulo 2³²: two seeds would train alike."""
    parent: TrialSpec | None = Field(default=None, exclude_if=lambda parent: parent is None)
    transform: str | None = Field(default=None, exclude_if=lambda name: name is None)
    found: tuple[str, ...] = Field(default=(), exclude_if=lambda paths: not paths)
    """Paths of settings that tuning or compute matching chose for this router alone; they do not
    make it a separate condition."""
    twin: int = Field(default=0, ge=0, exclude_if=lambda number: not number)
    """Number of an A/A replicate. Trials that differ in it alone draw their MoE layers' weights and
    their routers' noise from separate streams, so they differ by chance alone."""

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.parent is None) != (self.transform is None):
            raise ValueError("a derived trial needs both a parent and a transform")
        return self

    def condition(self) -> dict[str, Any]:
        """Return the description shared by all trials that differ only in their seed."""
        return self.with_seed(0).model_dump(mode="json", exclude={"seed"})

    def with_seed(self, seed: int) -> TrialSpec:
        """Return the trial with another seed, which its parent gets as well."""
        parent = None if self.parent is None else self.parent.with_seed(seed)
        return self.model_copy(update={"seed": seed, "parent": parent})

    def derived(self, parent: TrialSpec, transform: str) -> TrialSpec:
        """Return the trial as one that starts from a parent's weights, by a transform."""
        return self.model_copy(update={"parent": parent, "transform": transform})

    def dense(self) -> TrialSpec:
        """Return the trial without MoE layers, trained from scratch; its FLOPs are the budget."""
        alone = {"router": DENSE, "experts": ExpertsConfig(), "twin": 0, "found": ()}
        return self.model_copy(update=alone | {"parent": None, "transform": None})


Pruner = Literal["median", "hyperband", "none"]
AS = "write it as {low: 1e-4, high: 1e-2, log: true} or {options: [a, b]}"


class SearchRange(Config):
    """A range of numbers to search, both ends included; of integers if the setting is one."""

    low: float
    high: float
    log: bool = False
    """Whether to sample uniformly on a logarithmic scale."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError("low must not exceed high, and must be above 0 if log is true")
        return self


class SearchOptions(Config):
    """A list of values to search."""

    options: tuple[bool | int | float | str | None, ...] = Field(min_length=1)


SHARED: dict[str, SearchRange | SearchOptions] = {
    "train.lr": SearchRange(low=3e-4, high=1e-2, log=True),
    "train.weight_decay": SearchRange(low=1e-3, high=0.3, log=True),
}
"""Ranges around the usual AdamW settings for vision transformers."""


class TuneConfig(Config):
    """The settings of a tuning run, the same for every router."""

    trials: int = Field(default=20, ge=1)
    """Number of settings tried for each router, each on one seed."""
    seeds: int = Field(default=3, ge=1)
    """Number of seeds that the best settings are trained on."""
    pruner: Pruner = "median"
    """How trials with low validation accuracy are stopped early."""
    ranges: dict[str, SearchRange | SearchOptions] = SHARED
    """Path -> where to search; shared by all routers."""

    @field_validator("ranges", mode="before")
    @classmethod
    def _name_what_is_no_range(cls, ranges: Any) -> Any:
        """Validate each range separately, since the error of a union would name both kinds."""
        for path, asked in ranges.items() if isinstance(ranges, dict) else ():
            if isinstance(asked, SearchRange | SearchOptions):
                continue
            options = isinstance(asked, dict) and "options" in asked
            try:
                (SearchOptions if options else SearchRange).model_validate(asked)
            except ValidationError as error:
                first = error.errors()[0]
                message = first["msg"].removeprefix("Value error, ")
                fault = f"{'.'.join(map(str, first['loc'][:1]))} {message}".strip()
                raise ValueError(f"{path}: {asked!r} is not a range: {fault}; {AS}") from None
        return ranges
