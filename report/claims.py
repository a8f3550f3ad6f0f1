"""Claims about routers as data: the claim, its source, and the runs that would decide it."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from results import StoreError
from results.text import read_yaml

FILE = Path(__file__).parent / "claims.yaml"
NEEDS: dict[str, tuple[str, ...]] = {
    "higher": ("right",),
    "lower": ("right",),
    "equal": ("right", "margin"),
    "outweighs": ("right", "other_left", "other_right"),
    "rises": ("over",),
    "falls": ("over",),
}
"""The tests, and what each needs besides its left side."""


class Side(BaseModel):
    """Runs whose mean is one side of a comparison."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    routers: tuple[str, ...] = Field(min_length=1, description="Names; their mean is taken.")
    experts: tuple[str, ...] = Field(default=(), description="Only runs with these experts.")
    settings: dict[str, Any] = Field(
        default={}, description="Path -> value that only this side has; null: without it."
    )
    where: dict[str, Any] = Field(default={}, description="Overrides the claim's own.")


class Claim(BaseModel):
    """A claim and its test.

    `higher`, `lower` and `equal` (within `margin`) compare with 0 the mean of `left` minus that of
    `right`, paired by seed, over all conditions that have both. `rises` and `falls` test the slope
    of `left` per doubling of the setting `over`. `outweighs` asks whether `left` minus `right` and
    `other_left` minus `other_right` have the same sign.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[\w-]+$", description="A short name for it.")
    claim: str = Field(description="A sentence.")
    source: str = Field(description="Who says so, and where.")
    scale: str = Field(default="", description="At what scale the source found it.")
    note: str = Field(default="", description="How the test reads the claim.")
    by_settings: bool = Field(
        default=False,
        description="Whether settings may decide it; its verdict says if they were tuned.",
    )
    matched: tuple[str, ...] = Field(
        default=(), description="Kinds of compute match that qualify, any one of; none: all do."
    )
    metric: str
    where: dict[str, Any] = Field(default={}, description="Which of the metric's numbers count.")
    test: Literal["higher", "lower", "equal", "outweighs", "rises", "falls"]
    left: Side
    right: Side | None = None
    other_left: Side | None = None
    other_right: Side | None = None
    margin: float | None = Field(default=None, gt=0, description="In the metric's unit.")
    over: str | None = Field(default=None, description="Path of a numeric setting.")
    supported_if: str = Field(description="What would support it.")
    contradicted_if: str = Field(description="What would contradict it.")

    @model_validator(mode="after")
    def _has_what_its_test_needs(self) -> Claim:
        needed = set(NEEDS[self.test])
        fields = {n for names in NEEDS.values() for n in names if getattr(self, n) is not None}
        if missing := sorted(needed - fields):
            raise ValueError(f"the test {self.test!r} needs {', '.join(missing)}")
        if useless := sorted(fields - needed):
            raise ValueError(f"the test {self.test!r} takes no {', '.join(useless)}")
        return self


@cache
def published() -> tuple[Claim, ...]:
    """Return the claims of the papers that the routers come from."""
    return read_claims(FILE)


def read_claims(file: Path) -> tuple[Claim, ...]:
    """Return the claims of a YAML file, which is a list of mappings (see `Claim`).

    Raises:
        StoreError: the file cannot be read, is invalid, or has two claims with one id; the
            message names the first invalid claim, the field and the value.
    """
    try:
        content = read_yaml(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise StoreError(f"cannot read the claims of {file}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise StoreError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    try:
        claims = TypeAdapter(tuple[Claim, ...]).validate_python(content)
    except ValidationError as error:
        raise StoreError(f"{file}: {_first(error, content)}") from error
    twice = [id for id, times in Counter(claim.id for claim in claims).items() if times > 1]
    if twice:
        raise StoreError(f"{file}: two claims have the id {twice[0]!r}")
    return claims


def own_claims(file: Path) -> tuple[Claim, ...]:
    """Return the claims of a user's own file.

    Raises:
        StoreError: as for `read_claims`, or an id is that of a published claim.
    """
    claims = read_claims(file)
    known = {claim.id for claim in published()}
    if taken := [claim.id for claim in claims if claim.id in known]:
        raise StoreError(f"{file}: {taken[0]!r} is the id of a published claim; choose another")
    return claims


def _first(error: ValidationError, content: Any) -> str:
    """Return the message of the first mistake, with its claim and field."""
    wrong = error.errors()[0]
    if not wrong["loc"]:
        return "claims are a list of mappings; see report/claims.yaml for what each holds"
    number, *path = wrong["loc"]
    one = content[number]
    name = one.get("id", f"number {int(number) + 1}") if isinstance(one, dict) else repr(one)
    value = wrong["input"]
    quoted = f" (given {json.dumps(value)})" if isinstance(value, str | int | float) else ""
    field = f"{'.'.join(map(str, path))}: " if path else ""
    return f"claim {name}: {field}{wrong['msg'].removeprefix('Value error, ')}{quoted}"
