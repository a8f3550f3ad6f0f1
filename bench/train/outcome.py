"""The outcome of a training run, stored as JSON next to its snapshots."""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from bench.data import replacing
from routers.errors import BenchError
from suites.support.subject import HistoryPoint

FILE = "outcome.json"


class SavedSnapshot(BaseModel):
    """The weights at one step of a training run, saved in a file.

    Attributes:
        seconds: duration of training until then, without evaluations.
        file: the file's name in the trial's folder.
        sha256: SHA-256 of the file, in hexadecimal.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    flops: float
    seconds: float
    file: str
    sha256: str


class Outcome(BaseModel):
    """The result of a training run, with its history and snapshots.

    Attributes:
        status: "done", or "diverged" if a loss or a router's logits were not finite.
        error: what went wrong, or None if nothing did.
        planned_steps: steps that the budget allowed.
        flops: FLOPs of training, forward and backward.
        flops_budget: FLOPs that the dense model spends in the recipe's epochs.
        budget: amount of the quantity matched between routers (see `bench.compute.budget`).
        budget_error: by how much the budget was missed, as a share of it.
        within_tolerance: whether the budget was met within the recipe's tolerance.
        uncounted: operations on floats that ran and that are not in the table of FLOPs.
        seconds: duration of training, without evaluations.
        snapshots: weights along the way, the initial ones first.
        folder: the folder of the snapshots; not stored, since folders move.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    status: Literal["done", "diverged"]
    error: str | None
    steps: int
    planned_steps: int
    flops: float
    flops_budget: float
    budget: float
    budget_error: float
    within_tolerance: bool
    uncounted: list[str]
    seconds: float
    history: list[HistoryPoint]
    snapshots: list[SavedSnapshot]
    folder: Path = Field(exclude=True)

    @property
    def final(self) -> SavedSnapshot | None:
        """The snapshot of the final weights, or None unless training is done."""
        return self.snapshots[-1] if self.status == "done" else None

    @property
    def checkpoint(self) -> Path | None:
        """The file of the final weights, or None unless training is done."""
        return self.folder / self.final.file if self.final else None

    @property
    def sha256(self) -> str | None:
        """The SHA-256 of the final weights, or None unless training is done."""
        return self.final.sha256 if self.final else None


def write_outcome(outcome: Outcome) -> None:
    """Write the outcome into its folder, atomically."""
    with replacing(outcome.folder / FILE) as part:
        part.write_text(outcome.model_dump_json(indent=1), encoding="utf-8")


def read_outcome(folder: Path) -> Outcome:
    """Read the outcome of the training run in a folder.

    Raises:
        BenchError: the file is missing or cannot be read.
    """
    file = folder / FILE
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return Outcome.model_validate({**stored, "folder": folder})
    except FileNotFoundError:
        raise BenchError(f"{folder} holds no finished training: there is no {FILE}") from None
    except (ValueError, TypeError) as error:  # from JSON, text or pydantic
        raise BenchError(f"{file} cannot be read: {error}") from None
