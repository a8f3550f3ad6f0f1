"""MixER's gate is fitted as its definition says, without gradients (2502.05335)."""

import numpy as np
import pytest
import torch

from bench.model import MLPExperts, MoELayer, ReplacedMLP, expert_losses
from routers import RequestError, RouterContext, build_router, finish_step, step_stats
from routers.mixer import best_free_experts, fit_gate, k_means

IMAGES, TOKENS, EXPERTS, DIM = 40, 3, 4, 5


def build(**options):
    torch.manual_seed(0)
    return build_router("mixer", dim=DIM, num_experts=EXPERTS, **options)


def contexts_in_blocks():
    """Return four groups of ten images, each far from the others in one dimension."""
    spread = 0.1 * torch.randn(IMAGES, DIM)
    spread[torch.arange(IMAGES), torch.arange(IMAGES) // 10] += 5
    return spread


def test_k_means_by_hand():
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [9.0, 3.0], [9.0, 5.0]])
    # Distances to (0, 0): 0, 1, 6, 7; to (4, 1): 2.5, 1.5, 3.5, 4.5. So {1, 2} and {3, 4}.
    clusters, centres = k_means(points, torch.tensor([[0.0, 0.0], [4.0, 1.0]]))
    assert clusters.tolist() == [0, 0, 1, 1]
    assert centres.tolist() == [[1.0, 0.0], [9.0, 4.0]]


def test_k_means_uses_the_absolute_distance():
    # By mean absolute distance, (3, 3) is 3 from the origin and 2.5 from (8, 3); by Euclidean
    # distance the origin is nearer: √18 against 5.
    points = torch.tensor([[0.0, 0.0], [3.0, 3.0], [8.0, 3.0]])
    clusters, _ = k_means(points, torch.tensor([[0.0, 0.0], [8.0, 3.0]]))
    assert clusters.tolist() == [0, 1, 1]


def test_an_empty_cluster_or_a_lack_of_convergence_gives_no_clusters():
    points = torch.tensor([[0.0], [1.0]])
    assert k_means(points, torch.tensor([[0.5], [9.0]]))[0] is None
    # Sixteen centres at one end of a long row need more than 20 sweeps to spread over it.
    row = torch.arange(1000, dtype=torch.double).unsqueeze(1)
    assert k_means(row, row[:16].clone())[0] is None


def test_clusters_in_turn_take_the_free_expert_with_the_lowest_median():
    # Medians, cluster by expert: (2, 1, 3), (4, 1.5, 3.5), (1, 2, 5). The first takes expert 1, so
    # the second gets 2 and the third gets 0, the one left.
    losses = torch.tensor(
        [[2.0, 1, 3], [4.0, 1, 3], [4.0, 2, 4], [0.0, 2, 5], [1.0, 2, 0], [9.0, 2, 7]]
    )
    clusters = torch.tensor([0, 1, 1, 2, 2, 2])
    assert best_free_experts(losses, clusters).tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    "images", [3, IMAGES]
)  # fewer than d + 1 as well: the minimum-norm solution
def test_the_gate_is_the_least_squares_fit(images):
    contexts = torch.randn(images, DIM, dtype=torch.double)
    experts = torch.arange(images) % EXPERTS
    inputs = np.hstack([contexts.numpy(), np.ones((images, 1))])
    expected = np.linalg.lstsq(inputs, np.eye(EXPERTS)[experts.numpy()], rcond=None)[0]
    np.testing.assert_allclose(fit_gate(contexts, experts, EXPERTS), expected, atol=1e-10)


def tried(router, contexts, losses):
    """Take one step whose images have these contexts, and whose experts have these losses."""
    routing = router.train()(contexts.unsqueeze(1).expand(-1, TOKENS, -1))
    finish_step([router], [{**step_stats(routing), "expert_losses": losses}])


def test_each_cluster_goes_to_its_best_expert_after_an_update():
    router, contexts = build(), contexts_in_blocks()
    best = torch.tensor([2, 0, 3, 1]).repeat_interleave(10)
    losses = torch.rand(IMAGES, EXPERTS) + 1
    losses[torch.arange(IMAGES), best] = 0.1
    router.centres.copy_(contexts[::10])
    router.known.fill_(True)
    tried(router, contexts, losses)
    assert (int(router.tries), int(router.fits), bool(router.known)) == (1, 1, True)
    torch.testing.assert_close(router.centres, contexts.view(4, 10, DIM).mean(1))
    routing = router.eval()(contexts.unsqueeze(1).expand(-1, TOKENS, -1))
    assert routing.group_experts.equal(best)
    assert routing.combine_weights().equal(
        torch.nn.functional.one_hot(best, EXPERTS)[:, None].expand(-1, TOKENS, -1).float()
    )


def test_a_gate_that_finds_no_clusters_is_unchanged_and_forgets_the_centres():
    router = build()
    router.known.fill_(True)  # all centres are 0, so all images are nearest to the first
    weight = router.gate.weight.clone()
    tried(router, contexts_in_blocks(), torch.rand(IMAGES, EXPERTS))
    assert (int(router.tries), int(router.fits), bool(router.known)) == (1, 0, False)
    assert router.gate.weight.equal(weight)


def test_initial_centres_are_drawn_around_the_mean_and_redrawn_after_a_failure():
    router, contexts = build(), contexts_in_blocks() + 100
    for _ in range(30):
        tried(router, contexts, torch.rand(IMAGES, EXPERTS))
        if router.fits:
            break
    assert 0 < int(router.fits) <= int(router.tries)


def test_padded_images_count_by_their_real_tokens_and_empty_ones_not_at_all():
    contexts, losses = contexts_in_blocks(), torch.rand(IMAGES, EXPERTS)
    mask = torch.arange(TOKENS) < (1 + torch.arange(IMAGES) % TOKENS)[:, None]
    empty = torch.tensor([0, 25])
    mask[empty] = False
    tokens = contexts.unsqueeze(1).expand(-1, TOKENS, -1).masked_fill(~mask[..., None], torch.nan)
    some = mask.any(1)
    routers = [build().train(), build().train()]
    for router in routers:
        router.centres.copy_(contexts[::10])
        router.known.fill_(True)
    padded = routers[0](tokens, RouterContext(mask=mask))
    assert padded.statistics["contexts"].isnan().all(1).equal(~some)
    finish_step(routers[:1], [{**step_stats(padded), "expert_losses": losses}])
    tried(routers[1], contexts[some], losses[some])
    assert int(routers[0].fits) == 1
    torch.testing.assert_close(routers[0].state_dict(), routers[1].state_dict())


def test_an_all_padding_batch_changes_nothing():
    router = build().train()
    before = {name: value.clone() for name, value in router.state_dict().items()}
    nothing = torch.zeros(2, TOKENS, dtype=torch.bool)
    routing = router(torch.randn(2, TOKENS, DIM), RouterContext(mask=nothing))
    finish_step([router], [{**step_stats(routing), "expert_losses": torch.rand(2, EXPERTS)}])
    assert all(value.equal(before[name]) for name, value in router.state_dict().items())


def test_no_gradient_reaches_the_gate_or_passes_through_it():
    router = build().train()
    assert not any(parameter.requires_grad for parameter in router.parameters())
    routing = router(torch.randn(2, TOKENS, DIM, requires_grad=True))
    assert not routing.logits.requires_grad
    assert not routing.weights.requires_grad


def test_groups_other_than_images_and_micro_batches_are_refused():
    experts = MLPExperts(EXPERTS, ReplacedMLP(DIM, 2 * DIM))
    with pytest.raises(RequestError, match=r"model.groups = 'batch': the router MixER .* 'image'"):
        MoELayer(build(), experts, groups="batch")


def test_a_forced_expert_runs_on_every_token_but_only_while_forced():
    layer = MoELayer(build(), MLPExperts(EXPERTS, ReplacedMLP(DIM, 2 * DIM))).eval()
    x = torch.randn(IMAGES, TOKENS, DIM)
    before = layer(x)
    losses = expert_losses(layer, lambda: layer(x).square().mean((1, 2)))
    own = layer.experts(x.expand(EXPERTS, *x.shape))  # (E, g, t, d)
    torch.testing.assert_close(losses, own.square().mean((2, 3)).T.detach())
    assert layer(x).equal(before)
    chosen = layer.router(x).group_experts
    torch.testing.assert_close(before, own[chosen, torch.arange(IMAGES)])
