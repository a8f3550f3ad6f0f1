"""Dropless experts without padding: rows packed expert by expert, run as one grouped product.

A dropless routing gives every expert as many slots as the fullest one needs; here each expert runs
on its own tokens only, and the CPU does not wait for their numbers.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from routers import GroupChoiceRouting, Routing, TokenChoiceRouting
from routers.routing.gather import CombineRows, DispatchRows

HALF_ROW = 8
"""How many 16-bit numbers fill 16 bytes, the alignment of grouped products."""


@dataclass(frozen=True, eq=False)
class Packed:
    """The choices of a dropless routing sorted by expert, one per row.

    Attributes:
        token_of_row: (n,) long, index of the row's token in the flattened (g, t); one past the last
            token if the choice is not real. Such rows come last.
        row_of_choice: (g·t, K) long, the inverse; n if the choice is not real.
        expert_of_row: (n,) long.
        ends: (E,) int32, one past the last row of each expert.
        unused: (n, 1) bool, true for rows that are not real; None if all are real.
    """

    token_of_row: Tensor
    row_of_choice: Tensor
    expert_of_row: Tensor
    ends: Tensor
    unused: Tensor | None

    @classmethod
    def of(cls, routing: TokenChoiceRouting) -> Self:
        """Pack the choices of a routing that drops no tokens."""
        tokens, choices = routing.experts.shape[:2].numel(), routing.choices
        expert, kept = routing.experts.reshape(-1), routing.kept.reshape(-1)
        order = expert.masked_fill(~kept, routing.num_experts).argsort(stable=True)
        row = torch.empty_like(order)
        row = row.scatter_(0, order, torch.arange(len(order), device=order.device))
        unused = None if routing.chosen is None else ~kept[order]
        token = order // choices
        return cls(
            token if unused is None else token.masked_fill(unused, tokens),
            row.masked_fill(~kept, len(order)).view(tokens, choices),
            expert[order],
            routing.expert_load().sum(0).cumsum(0).to(torch.int32),
            None if unused is None else unused.unsqueeze(1),
        )

    def affine(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply each expert's affine map to its rows: (n, i), (E, i, o), (E, 1, o) -> (n, o)."""
        y: Tensor = F.grouped_mm(rows, weight.to(rows.dtype), offs=self.ends)
        if bias is not None:
            y = y + bias.squeeze(1).to(y.dtype)[self.expert_of_row]
        # Rows after the last expert's are left uninitialised.
        return y if self.unused is None else y.masked_fill(self.unused, 0)

    def dispatch(self, x: Tensor) -> Tensor:
        """Gather the tokens of the rows: (g, t, d) -> (n, d)."""
        rows: Tensor = DispatchRows.apply(x.flatten(0, 1), self.token_of_row, self.row_of_choice)
        return rows

    def combine(self, rows: Tensor, routing: TokenChoiceRouting) -> Tensor:
        """Combine output rows into token outputs: (n, d) -> (g, t, d)."""
        weights = routing.weights.reshape(-1, routing.choices)
        y: Tensor = CombineRows.apply(rows, weights, self.token_of_row, self.row_of_choice)
        return y.view(*routing.experts.shape[:2], -1)


def packed_dtype(routing: Routing, x: Tensor, hidden: int | None) -> torch.dtype | None:
    """Return the dtype of packed rows; None if they cannot be used.

    They are used if nothing is dropped, in bfloat16, on a GPU that supports grouped products, with
    a torch that has them (2.10 or newer).

    Args:
        x: (g, t, d).
        hidden: hidden width of an expert; None if it has none, which is not supported.
    """
    if not isinstance(routing, TokenChoiceRouting) or isinstance(routing, GroupChoiceRouting):
        return None
    autocast = torch.is_autocast_enabled(x.device.type)
    dtype = torch.get_autocast_dtype(x.device.type) if autocast else x.dtype
    aligned = not x.shape[-1] % HALF_ROW and not (hidden or 1) % HALF_ROW
    wanted = routing.dropless and dtype == torch.bfloat16 and aligned and x.numel() > 0
    return dtype if wanted and has_grouped_products(x.device) else None


def has_grouped_products(device: torch.device) -> bool:
    """Tell whether torch supports grouped products on a device."""
    if device.type != "cuda" or not hasattr(F, "grouped_mm"):
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)
