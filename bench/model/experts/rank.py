"""The rank at which factorised experts have the parameters of what they stand in for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """Parameters that grow with a rank: `fixed` + rank · `per_rank`."""

    fixed: int = 0
    per_rank: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.fixed + other.fixed, self.per_rank + other.per_rank)

    def at(self, rank: int) -> int:
        """Parameters at a rank."""
        return self.fixed + rank * self.per_rank

    def nearest_rank(self, parameters: int) -> int:
        """The rank whose parameters come nearest to these; 0 where none from 1 on would."""
        return max(0, round((parameters - self.fixed) / self.per_rank))
