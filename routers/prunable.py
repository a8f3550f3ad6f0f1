"""The hyper-parameters of a router with fewer experts."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from routers.affinity import Affinity
from routers.hyper import Configurable


class Prunable(Configurable):
    """The part of a router that tells what it is with some of its experts alone.

    Its parameters and buffers whose size goes with the number of experts are cut to those.
    """

    prunable: ClassVar[bool] = True
    """Whether that has a meaning; not where the number or the order of its experts counts."""
    gate: nn.Module

    def options_with(self, num_experts: int) -> dict[str, Any]:
        """Return the hyper-parameters with which it routes to so many of its experts."""
        options = self.hyper_values()
        for name, value in options.items():
            if name.endswith(("top_k", "max_experts")) and value is not None:
                options[name] = min(value, num_experts)
        # What followed from the number of outputs, as the width of a projection, stays.
        if "affinity_options" in options and isinstance(self.gate, Affinity):
            options["affinity_options"] = self.gate.hyper_values()
        return options
