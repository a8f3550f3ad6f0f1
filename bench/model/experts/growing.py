"""Experts of growing width and attention window, which see all tokens of an image (MoCE-IR)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.model.experts.base import Experts, register_experts
from bench.model.experts.replaced import Replaced, ReplacedMLP
from bench.model.experts.stacked import uniform
from routers import MergedRouting, RequestError, Routing, SoftRouting, hyper


@register_experts("growing", family="attention", source="arXiv 2411.18466")
class GrowingExperts(Experts):
    """Each expert is twice as wide as the one before and attends in larger windows (MoCE-IR).

    Expert i of E, from 0, has width r = d / 2^(E−1−i), at least 1, and windows of `window` · 2^i
    tokens per side, at most the image: (attention(xW_q, xW_k, xW_v) ∘ SiLU(xW_g)) W_o, with one
    head, within each window, and without biases. An expert that any token of an image chooses runs
    on all tokens of the image; a token's output is the weighted sum of its experts' outputs. Any
    router can therefore use them whose experts read tokens rather than mixtures of tokens; the
    router `moce_ir` makes one choice per image, and the loss `complexity` uses their parameters.

    The authors attend in the Fourier domain, on feature maps of larger images, for which their
    first window of 4 is meant; their gate g reads the output of a shared expert. Their code repeats
    the expert's layer without effect; here there is one.

    Cost: 10 · d · r + 4 · r · (tokens of the window) FLOPs for each token of an image that an
    expert runs on, and 5 · d · r parameters. Known limit: an image's tokens must form a square,
    without a class token.
    """

    mixes_tokens = True

    window: int = hyper(4, "Tokens per side of the first expert's window.", ge=1)

    def __init__(self, num_experts: int, replaced: Replaced, **hyper: Any) -> None:
        super().__init__(num_experts, replaced, **hyper)
        assert isinstance(replaced, ReplacedMLP)  # as `replaces` says
        dim = replaced.dim
        self.tokens_of_image = replaced.tokens
        self.widths = [max(1, dim >> (num_experts - 1 - e)) for e in range(num_experts)]
        self.inner = nn.ParameterList(uniform((dim, 4 * r), dim) for r in self.widths)
        self.outer = nn.ParameterList(uniform((r, dim), r) for r in self.widths)
        self.drop = nn.Dropout(replaced.dropout[1])
        self.expert_sizes = tuple(5 * dim * r for r in self.widths)

    def apply(self, routing: Routing, x: Tensor) -> Tensor:  # type: ignore[override]
        """Run each expert on the images of which any token chooses it: (g, t, d) -> (g, t, d)."""
        if isinstance(routing, MergedRouting):
            return super().apply(routing, x)  # raises an error
        if isinstance(routing, SoftRouting):
            raise RequestError(
                f"experts {self.name!r} read whole images, in which slots that mix tokens have no "
                "place: use a router whose experts read tokens, such as 'moce_ir'"
            )
        if not len(x):
            return x  # no images, but still part of the graph
        side, weights, y = self._side(x.shape[1]), routing.combine_weights(), torch.zeros_like(x)
        for expert, runs in enumerate((routing.expert_load() > 0).T.tolist()):
            if any(runs):
                images = torch.tensor(runs, device=x.device).nonzero().squeeze(1)
                out = weights[images, :, expert, None] * self._run(expert, x[images], side)
                y = y.index_add(0, images, out.to(y.dtype))
        return y

    def _side(self, tokens: int) -> int:
        """Return the number of tokens per side of an image."""
        if self.tokens_of_image not in (None, tokens):
            raise RequestError(
                f"experts {self.name!r} read all {self.tokens_of_image} tokens of an image, and "
                f"here an image has {tokens}: leave images unpadded and their tokens undropped "
                "(model.options.patch_drop_rate = 0)"
            )
        side = math.isqrt(tokens)
        if side * side != tokens:
            raise RequestError(
                f"experts {self.name!r} need a square of tokens, but an image has {tokens}: choose "
                "model.options without a class token (class_token: false, global_pool: avg)"
            )
        return side

    def _run(self, expert: int, x: Tensor, side: int) -> Tensor:
        """Apply one expert to whole images: (n, t, d) -> (n, t, d)."""
        width, size = self.widths[expert], self._window(expert, side)
        attended, gate = (x @ self.inner[expert]).split((3 * width, width), -1)
        mask = None
        if side % size:
            # The last windows extend past the edge, where there is nothing to attend to.
            real = windows(x.new_ones(1, side * side, 1), side, size) > 0
            mask = real.transpose(2, 3)
        query, key, value = windows(attended, side, size).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        mixed = from_windows(mixed, side, size)
        dropped: Tensor = self.drop((mixed * F.silu(gate)) @ self.outer[expert])
        return dropped

    def _window(self, expert: int, side: int) -> int:
        return min(self.window << expert, side)

    def slots(self, routing: Routing) -> int:
        return routing.num_tokens * int((routing.expert_load() > 0).sum())

    def sizes(self, routing: Routing) -> tuple[int, ...]:
        """Return how many images each expert runs on, and for each whether it runs at all."""
        images = (routing.expert_load() > 0).sum(0).tolist()
        return *images, *(min(1, number) for number in images)

    def rows(self, routing: Routing) -> int:
        tokens, side = routing.num_tokens, self._side(routing.num_tokens)
        images = (routing.expert_load() > 0).sum(0).tolist()
        flops = sum(
            number * tokens * width * (10 * self.replaced.dim + 4 * self._window(e, side) ** 2)
            for e, (number, width) in enumerate(zip(images, self.widths, strict=True))
        )
        return max(1, round(flops / (4 * self.replaced.dim * self.replaced.hidden)))

    def active_share(self, routing: Routing) -> float:
        share = (routing.expert_load() > 0).double().mean(0).tolist()
        acting = sum(s * size for s, size in zip(share, self.expert_sizes, strict=True))
        return acting / sum(self.expert_sizes)


def windows(x: Tensor, side: int, size: int) -> Tensor:
    """Cut images into windows, zero-padded at the edge: (n, side², r) -> (n, windows, size², r)."""
    count = -(-side // size)
    over = count * size - side
    grid = F.pad(x.unflatten(1, (side, side)), (0, 0, 0, over, 0, over))
    cut = grid.unflatten(2, (count, size)).unflatten(1, (count, size))
    return cut.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def from_windows(x: Tensor, side: int, size: int) -> Tensor:
    """Undo `windows`: (n, windows, size², r) -> (n, side², r)."""
    count = -(-side // size)
    cut = x.unflatten(2, (size, size)).unflatten(1, (count, count)).transpose(2, 3)
    grid = cut.flatten(3, 4).flatten(1, 2)
    return grid[:, :side, :side].flatten(1, 2)
