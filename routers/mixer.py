"""One expert for each image, by a gate that no gradient trains (MixER)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from routers.hyper import hyper
from routers.layer_info import ExpertTrials, RouterContext
from routers.router import OwnGate, register_router
from routers.routing import GroupChoiceRouting, Routing

ITERATIONS = 20
"""Maximum number of k-means iterations."""
STILL = 1e-4
"""Largest change of any coordinate of a centre at which k-means counts as converged."""
START = 1e-3
"""Largest offset of any coordinate of the first centres from the mean context."""
JITTER = 1e-4
"""Standard deviation of the noise on the contexts to which the gate is fitted."""


@register_router("mixer", family="token_choice", display="MixER", source="arXiv 2502.05335")
class MixER(OwnGate):
    """Each image takes one expert; k-means and least squares, not gradients, fit the gate (MixER).

    The paper's environment is an image here, and its context c is the image's mean token, without
    gradient. Logits are Wᵀ[c; 1]; the expert with the highest one runs, and its output is not
    weighted. Every `update_gate_every` steps, after the optimiser step, each expert is tried on
    `images` images of the batch: all tokens of the layer go to it, in eval mode, and the loss of
    each image is taken. The contexts are clustered by k-means (mean absolute distance, centres are
    means, at most 20 iterations, from the last centres). One by one, clusters take the free expert
    with the lowest median loss, and W is the least-squares fit of [c + noise; 1] to these experts,
    one-hot. If a cluster is empty or k-means does not converge, W stays and centres are forgotten.

    Differences from the paper: its contexts are learned, one per environment, and images have none;
    so the first centres lie around the mean context here, around 0 there. Its experts start
    identical; here they start like those of any router. It adds up experts with equal logits; here
    the first is taken. It updates at every step; here at every tenth, to save cost.

    Cost: E forward passes of the model on `images` images per layer and update. Training FLOPs
    count them, spread over the steps, but leave out k-means and least squares. Known limits: groups
    must be images; with fewer than d + 1 images the gate fits all of them exactly, with fewer than
    E none; experts need weights of their own (mlp, linear).

    Attributes:
        centres: (E, d), of the last clusters.
        known: () bool, whether there are any.
        tries, fits: () long, updates that were tried, and those that changed W.
        seed: () long, of the first centres and of the noise.
    """

    update_gate_every: int = hyper(10, "Steps from one update of the gate to the next.", ge=1)
    images: int = hyper(256, "Images of the batch on which an update tries the experts.", ge=1)

    centres: Tensor
    known: Tensor
    tries: Tensor
    fits: Tensor
    seed: Tensor

    def build_gate(self) -> nn.Module:
        self.register_buffer("centres", torch.zeros(self.num_experts, self.dim))
        self.register_buffer("known", torch.zeros((), dtype=torch.bool))
        self.register_buffer("tries", torch.zeros((), dtype=torch.long))
        self.register_buffer("fits", torch.zeros((), dtype=torch.long))
        self.register_buffer("seed", torch.randint(2**31, ()))
        return nn.Linear(self.dim, self.num_experts).requires_grad_(False)

    @property
    def trials(self) -> ExpertTrials:
        return ExpertTrials(self.update_gate_every, self.images)

    def compute_logits(self, tokens: Tensor, context: RouterContext) -> Tensor:
        """Compute one set of logits for all tokens of an image: (g, t, d) -> (g, t, E)."""
        logits: Tensor = self.gate(tokens.detach().mean(1, keepdim=True))
        return logits.expand(*tokens.shape[:2], self.num_experts)

    def allocate(self, logits: Tensor) -> Routing:
        experts = logits.amin(1, keepdim=True).argmax(-1)
        allowed = logits.gather(-1, experts.unsqueeze(-1).expand(*logits.shape[:2], 1)) > -torch.inf
        return GroupChoiceRouting.of(logits.softmax(-1), experts, allowed)

    def forward(self, tokens: Tensor, context: RouterContext | None = None) -> Routing:
        routing = super().forward(tokens, context)
        if self.training:
            # Each row is an image here; `complete` sees only those of equally many real tokens.
            contexts = mean_tokens(tokens.detach().to(self.centres.dtype), routing.mask)
            routing.statistics["contexts"] = contexts
        return routing

    @torch.no_grad()
    def after_step(self, stats: dict[str, Tensor]) -> None:
        if "expert_losses" not in stats:
            return
        losses = stats["expert_losses"].double().cpu()
        contexts = stats["contexts"][: len(losses)].double().cpu()
        real = ~contexts.isnan().any(1)  # leaves out images without real tokens
        losses, contexts = losses[real], contexts[real]
        if not len(contexts):
            return
        drawn = torch.Generator().manual_seed(int(self.seed) + int(self.tries))
        centres = self.centres.double().cpu()
        if not self.known:
            offsets = torch.rand(centres.shape, generator=drawn, dtype=torch.double) * 2 - 1
            centres = contexts.mean(0) + START * offsets
        clusters, centres = k_means(contexts, centres)
        self.tries += 1
        self.known.fill_(clusters is not None)
        if clusters is None:
            return
        self.centres.copy_(centres)
        expert = best_free_experts(losses, clusters)[clusters]
        noise = JITTER * torch.randn(contexts.shape, generator=drawn, dtype=torch.double)
        fitted = fit_gate(contexts + noise, expert, self.num_experts)
        assert isinstance(self.gate, nn.Linear)  # see `build_gate`
        self.gate.weight.copy_(fitted[:-1].T)
        self.gate.bias.copy_(fitted[-1])
        self.fits += 1


def mean_tokens(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of each image's real tokens: (g, t, …) -> (g, d), NaN if it has none."""
    flat = tokens.flatten(2)
    if mask is None:
        return flat.mean(1)
    real = mask.unsqueeze(-1)
    return flat.masked_fill(~real, 0).sum(1) / real.sum(1)


def k_means(points: Tensor, centres: Tensor) -> tuple[Tensor | None, Tensor]:
    """Cluster points by their mean absolute distance to centres, which are means.

    Args:
        points: (n, d).
        centres: (E, d), to start from.

    Returns:
        (n,) long, the cluster of each point, and (E, d), the centres. The clusters are None if one
        is empty or the centres still move after 20 iterations.
    """
    for _ in range(ITERATIONS):
        distances = (points.unsqueeze(1) - centres).abs().mean(-1)
        clusters = distances.argmin(1)
        sizes = clusters.bincount(minlength=len(centres))
        if not sizes.all():
            break
        sums = torch.zeros_like(centres).index_add_(0, clusters, points)
        before, centres = centres, sums / sizes.unsqueeze(1)
        if (centres - before).abs().max() < STILL:
            return clusters, centres
    return None, centres


def best_free_experts(losses: Tensor, clusters: Tensor) -> Tensor:
    """Give each cluster, in order, the free expert with the lowest median loss on it.

    Args:
        losses: (n, E), the loss of each expert on each point.
        clusters: (n,) long, each of 0 to E − 1 at least once.

    Returns:
        (E,) long, the expert of each cluster.
    """
    free, taken = list(range(losses.shape[1])), []
    for cluster in range(len(free)):
        medians = losses[clusters == cluster].quantile(0.5, 0).tolist()
        taken.append(min(free, key=medians.__getitem__))
        free.remove(taken[-1])
    return torch.tensor(taken)


def fit_gate(contexts: Tensor, experts: Tensor, num_experts: int) -> Tensor:
    """Fit [c; 1] to each context's expert, one-hot, by minimum-norm least squares.

    Args:
        contexts: (n, d).
        experts: (n,) long.

    Returns:
        (d + 1, E), the biases last.
    """
    targets = nn.functional.one_hot(experts, num_experts).to(contexts.dtype)
    inputs = nn.functional.pad(contexts, (0, 1), value=1.0)
    fitted: Tensor = torch.linalg.lstsq(inputs, targets, driver="gelsd").solution
    return fitted
