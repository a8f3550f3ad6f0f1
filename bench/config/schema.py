"""A trial as validated plain data: its parts, and the whole."""

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
    """The base of all settings: frozen, without unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `seeds: yes`, which pydantic would read as 1."""
        name = str(info.field_name)
        values = value.values() if isinstance(value, dict) else [value]
        if any(isinstance(each, bool) for each in values) and not _takes_bool(
            cls.model_fields[name].annotation
        ):
            raise ValueError(f"{name} = {value} is yes or no, where something else is meant")
        return value


def _takes_bool(annotation: Any) -> bool:
    """Tell whether a bool is a value of a field, or may stand inside of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True  # its own fields say
    return annotation in (bool, Any) or any(map(_takes_bool, get_args(annotation)))


class AugmentConfig(Config):
    """The augmentation of training images, seeded by epoch and image."""

    crop_padding: int = Field(default=0, ge=0)
    """Pixels of padding before a random crop."""
    flip: bool = False
    """Left and right, at random."""
    randaugment: str | None = None
    """timm's policy, as `rand-m9-mstd0.5`."""


class DataConfig(Config):
    """A data set by name, and the shape that its images are brought to."""

    name: str = "fashion_mnist_mini"
    """`digits`, `cifar100`, `timm:NAME`, …"""
    data_dir: str | None = None
    """Where its files lie already."""
    image_size: int | None = Field(default=None, ge=1)
    """Pixels a side; none keeps squares as they are, others take the model's."""
    channels: int | None = Field(default=None, ge=1)
    """1 or 3; none keeps them."""
    augment: AugmentConfig = AugmentConfig()


class ModelConfig(Config):
    """A timm model, and which of its blocks get an MoE layer."""

    name: str = "vit_tiny_patch16_224"
    options: Options = {}
    """Passed to `timm.create_model`."""
    weights: str | None = None
    """A file of pretrained weights of this timm model."""
    layers: Literal["last2", "every2", "all", "every_mlp", "head"] | tuple[int, ...] = "last2"
    """Blocks whose MLP becomes an MoE layer; head is the last layer."""
    groups: Literal["image", "batch"] | Annotated[int, Field(ge=1)] = "image"
    """Tokens that are routed together: of an image, the batch, or a number."""


class ExpertsConfig(Config):
    """The functions behind the slots of every MoE layer."""

    name: str = "mlp"
    num_experts: int = Field(default=8, ge=1)
    options: Options = {}
    shared: int = Field(
        default=0,
        ge=0,
        exclude_if=lambda number: number == 0,
        description="Experts beside the routed ones, through which every token goes.",
    )


class RouterConfig(Config):
    """A router with every hyper-parameter resolved."""

    name: str
    options: Options = {}


DENSE = RouterConfig(name="dense")


class TrainConfig(Config):
    """The recipe of one training."""

    epochs: float = Field(default=10, gt=0)
    """Of the dense model; its FLOPs are the budget."""
    batch_size: int = Field(default=128, ge=1)
    micro_batches: int = Field(default=1, ge=1, exclude_if=lambda parts: parts == 1)
    """Parts of each batch, or of a rank's share, trained on one after the other, to need less
    memory."""
    ranks: int = Field(default=1, ge=1, exclude_if=lambda number: number == 1)
    """Processes that share each batch, on a GPU each."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps; cosine after it."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Of the gradient; none does not clip."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of averaged weights."""
    losses: dict[str, float] = {}
    """Weight of each auxiliary loss."""
    loss_options: dict[str, Options] = {}
    snapshots: int = Field(default=5, ge=0)
    """Equally spaced in FLOPs, the first weights too."""
    evaluations: int = Field(default=10, ge=1)
    """On the validation split, along the way."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of autocast."""


class ComputeConfig(Config):
    """The quantity that is made equal between routers; see `bench.compute.budget`."""

    match: Match = "total_flops"
    """By the number of steps: total_flops, wall_clock, steps; by the width of experts: step_flops,
    params."""
    seconds: float | None = Field(default=None, gt=0, exclude_if=lambda seconds: seconds is None)
    """Of training, evaluations left out: the budget of wall_clock."""
    tolerance: float = Field(default=0.01, gt=0)
    """Relative; one step of total_flops, one segment of wall_clock are allowed in any case."""

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
                f"and it is {self.match}: leave out one of the two"
            )
        return self


class TrialSpec(Config):
    """One training run, as plain data. `model_dump(mode="json")` is its description.

    A trial may be derived: it starts from its parent's trained weights, by a registered transform.
    """

    router: RouterConfig
    experts: ExpertsConfig
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    compute: ComputeConfig
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Torch and NumPy would take a larger one modulo 2³²: two seeds, one training."""
    parent: TrialSpec | None = Field(default=None, exclude_if=lambda parent: parent is None)
    transform: str | None = Field(default=None, exclude_if=lambda name: name is None)
    found: tuple[str, ...] = Field(default=(), exclude_if=lambda paths: not paths)
    """Settings that tuning or matching compute has set for this router alone; they set no condition
    apart."""
    twin: int = Field(default=0, ge=0, exclude_if=lambda number: not number)
    """Of several trials alike in all but this, each draws its MoE layers and its routers' noise
    from a stream of its own: what they differ by is chance alone."""

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.parent is None) != (self.transform is None):
            raise ValueError("a derived trial has a parent and a transform")
        return self

    def condition(self) -> dict[str, Any]:
        """Return the description of all trials that differ in the seed alone."""
        return self.with_seed(0).model_dump(mode="json", exclude={"seed"})

    def with_seed(self, seed: int) -> TrialSpec:
        """Return the trial with another seed, which its parent gets too."""
        parent = None if self.parent is None else self.parent.with_seed(seed)
        return self.model_copy(update={"seed": seed, "parent": parent})

    def derived(self, parent: TrialSpec, transform: str) -> TrialSpec:
        """Return the trial started from the weights of another one."""
        return self.model_copy(update={"parent": parent, "transform": transform})

    def dense(self) -> TrialSpec:
        """Return the trial without MoE layers, from scratch: its FLOPs are the budget."""
        alone = {"router": DENSE, "experts": ExpertsConfig(), "twin": 0, "found": ()}
        return self.model_copy(update=alone | {"parent": None, "transform": None})


Pruner = Literal["median", "hyperband", "none"]
AS = "write it as {low: 1e-4, high: 1e-2, log: true} or {options: [a, b]}"


class SearchRange(Config):
    """A range of numbers to search, both ends included; whole numbers where the setting is one."""

    low: float
    high: float
    log: bool = False
    """Whether their logarithm is drawn evenly."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError("the low end comes first, and is above 0 where log is true")
        return self


class SearchOptions(Config):
    """A list of values to search."""

    options: tuple[bool | int | float | str | None, ...] = Field(min_length=1)


SHARED: dict[str, SearchRange | SearchOptions] = {
    "train.lr": SearchRange(low=3e-4, high=1e-2, log=True),
    "train.weight_decay": SearchRange(low=1e-3, high=0.3, log=True),
}
"""Around what vision transformers are trained with by AdamW."""


class TuneConfig(Config):
    """The settings of a tuning, which are the same for every router."""

    trials: int = Field(default=20, ge=1)
    """Settings of each router; each trains on one seed."""
    seeds: int = Field(default=3, ge=1)
    """Seeds that the best settings train on."""
    pruner: Pruner = "median"
    """Which trials end early, by their validation accuracy."""
    ranges: dict[str, SearchRange | SearchOptions] = SHARED
    """Path -> where to search; those of all routers."""

    @field_validator("ranges", mode="before")
    @classmethod
    def _name_what_is_no_range(cls, ranges: Any) -> Any:
        """Validate each range by itself: a message of a union would name both kinds."""
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
                raise ValueError(f"{path}: {asked!r} is no range: {fault}; {AS}") from None
        return ranges
