"""What all affinities share.

Axes: g groups, t tokens, d width, n outputs (E experts, or E·s slots for soft routers, which
unflatten them). An affinity is called as `affinity(tokens, context)`, (g, t, d) -> (g, t, n), and
can be combined with any allocation that takes its logits.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from routers.hyper import Configurable
from routers.layer_info import Site
from routers.registry import Registry

AFFINITIES = Registry("affinity")
register_affinity = AFFINITIES.register


class Affinity(nn.Module, Configurable):
    """The base of all affinities: a subclass makes its parameters in `build` and writes `forward`.

    Args:
        dim: width d of the tokens.
        outputs: n, logits of each token.
        site: what it may need to know of the layer.
        hyper: hyper-parameters, by name.

    Attributes:
        per_expert: whether it can give logits of experts alone, not of slots or levels.

    Raises:
        RequestError: a hyper-parameter that the affinity does not have, or a value that it refuses.
    """

    per_expert: ClassVar[bool] = False

    def __init__(self, dim: int, outputs: int, site: Site | None = None, **hyper: Any) -> None:
        super().__init__()
        self.dim, self.outputs, self.site = dim, outputs, site or Site()
        self.set_hyper(hyper)
        self.build()

    def build(self) -> None:
        """Make the parameters."""
        raise TypeError(f"affinity {type(self).__name__!r} defines no build(self)")

    def output(self) -> nn.Parameter | None:
        """Return (n, h): the weights that the logits are linear in; None where there are none."""
        return None

    def extra_repr(self) -> str:
        own = {"dim": self.dim, "outputs": self.outputs, **self.hyper_values()}
        return ", ".join(f"{name}={value!r}" for name, value in own.items())


def build_affinity(
    name: str, dim: int, outputs: int, site: Site | None = None, **hyper: Any
) -> nn.Module:
    """Build a registered affinity by name.

    Args:
        name: linear, cosine, mlp, soft, conv, attentive, or a user's own.
        dim: width of the tokens.
        outputs: logits of each token.
        site: what the affinity may need to know of the layer.
        hyper: the affinity's hyper-parameters.

    Raises:
        RequestError: no such affinity, a hyper-parameter that it does not have, or a layer in
            which it has no meaning.
    """
    affinity: nn.Module = AFFINITIES.get(name).target(dim, outputs, site, **hyper)
    return affinity


def lecun_normal(rows: int, columns: int) -> nn.Parameter:
    """Draw (rows, columns) from a normal cut at two deviations, with variance 1 / columns."""
    # 0.8796… is the deviation of a unit normal that was cut at ±2.
    std = columns**-0.5 / 0.87962566103423978
    weight = torch.empty(rows, columns)
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    return nn.Parameter(weight)
