"""The hyper-parameters of a router with fewer experts."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from routers.affinity import Affinity
from routers.hyper import Configurable


class Prunable(Configurable):
    """The part of a router that describes it with only some of its experts.

    Its parameters and buffers whose size depends on the number of experts are cut to those kept.
    """

    prunable: ClassVar[bool] = True
    """Whether pruning is defined, which it is not if the number or order of experts matters."""
    gate: nn.Module

    def options_with(self, num_experts: int) -> dict[str, Any]:
        """Return the hyper-parameters with which it routes to that many of its experts."""
        options = self.hyper_values()
        for name, value in options.items():
            if name.endswith(("top_k", "max_experts")) and value is not None:
                options[name] = min(value, num_experts)
        # Values derived from the number of outputs, such as the width of a projection, stay.
        if "affinity_options" in options and isinstance(self.gate, Affinity):
            options["affinity_options"] = self.gate.hyper_values()
        return options
