"""Padded tokens take no capacity, count nowhere, and come out unchanged, for every router."""

import functools

import pytest
import timm
import torch

from bench.model import forward_pass, moe_layers, moefy
from bench.model.moe import attended
from routers import (
    LOSSES,
    ROUTERS,
    Batch,
    PaddedRouting,
    RequestError,
    RouterContext,
    finish_step,
    step_stats,
)
from suites.balance import LayerCounts
from suites.support.information import ImageMasses
from tests.bench.model.test_moe import ROUTED, layer_of

TOKENS, REAL, DIM = 8, 6, 6
MASKS = {
    "at the end": [1, 1, 1, 1, 1, 1, 0, 0],
    "anywhere": [0, 1, 1, 0, 1, 1, 1, 1],
}
OPTIONS = {"capacity_factor": 0.7, "top_k": 2, "num_slots": 2, "noise_std": 1.0}
# A position counts real tokens only; one slot of experts with parameters is one of them.
spans = {name for name in ROUTED if ROUTERS.get(name).target.spans_batch}


def fresh(name, training, **options):
    torch.manual_seed(0)
    layer = layer_of(name, experts=4, tokens=REAL, **{**OPTIONS, **options}).train(training)
    for parameter in layer.router.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    for buffer, value in layer.router.named_buffers():
        if buffer == "threshold":
            value.fill_(0.3)
    return layer


def run(layer, x, mask=None):
    generator = torch.Generator().manual_seed(2)
    with forward_pass(layer, mask=mask, generator=generator, labels=labels(x)) as routings:
        y = layer(x)
    return y, routings[0]


def labels(x):
    return torch.arange(len(x)) % 2


def tokens(images, seed=1):
    return torch.randn(
        images, TOKENS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def masks(images):
    return torch.tensor([[*MASKS.values()][i % 2] for i in range(images)]).bool()


def stripped(x, mask):
    """Strip the padding from images that have equally many real tokens."""
    return x[mask].view(len(x), -1, x.shape[-1])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("name", ROUTED)
def test_real_tokens_are_routed_as_if_there_were_no_padding(name, images, training):
    """This holds for values, all gradients, losses, statistics and metrics."""
    x, mask = tokens(images), masks(images)
    x[~mask] = torch.nan  # the content of padding has no effect
    results = []
    for batch_in, own in ((x, mask), (stripped(x, mask), None)):
        layer, batch_in = fresh(name, training), batch_in.clone().requires_grad_()
        y, routing = run(layer, batch_in, own)
        parameters = {k: p for k, p in layer.named_parameters() if p.requires_grad}
        upstream = torch.linspace(-1, 1, images * REAL * DIM, dtype=y.dtype)
        real = y if own is None else y[own]
        own_loss = layer.router.own_loss(routing, Batch(x, labels(x))) or 0
        total = (real.reshape(-1) * upstream).sum() + own_loss
        grads = torch.autograd.grad(
            total, [batch_in, *parameters.values()], allow_unused=True, materialize_grads=True
        )
        counts, masses = LayerCounts(4), ImageMasses()
        counts.add(routing)
        if (routing.combine_weights() >= 0).all():
            masses.add(routing.combine_weights().detach(), images, routing.mask)
        stats = step_stats(routing)
        finish_step([layer.router], [stats])
        results.append((y, grads[0], grads[1:], routing, counts, masses, stats, layer, own))
    padded, plain = results
    assert padded[0][~mask].eq(0).all()
    assert padded[1][~mask].eq(0).all()
    close = functools.partial(torch.testing.assert_close, equal_nan=True)
    close(padded[0][mask], plain[0].flatten(0, 1))
    close(padded[1][mask], plain[1].flatten(0, 1))
    close(padded[2], plain[2])
    routing, without = padded[3], plain[3]
    for at in ("gates", "logits"):
        close(routing.real(getattr(routing, at)), without.real(getattr(without, at)))
    for at in ("combine_weights", "taken", "sought", "token_coverage", "first_choice"):
        close(routing.real(getattr(routing, at)()), without.real(getattr(without, at)()))
    for at in ("expert_load", "demand"):
        close(getattr(routing, at)().sum(0), getattr(without, at)().sum(0))
    assert dict.fromkeys(padded[6]) == dict.fromkeys(plain[6])
    close(padded[6], plain[6])
    close(padded[7].state_dict(), plain[7].state_dict())
    for one, other in zip(padded[4].metrics(), plain[4].metrics(), strict=True):
        # If nothing is dropped, the tokens of a pass determine the slots.
        at_once = one.name == "capacity" and layer.router.ignores_groups
        assert at_once or one == other or one.value == pytest.approx(other.value)
    assert padded[5].__dict__.keys() == plain[5].__dict__.keys()
    assert (padded[5]._tokens, padded[5]._counted) == (plain[5]._tokens, plain[5]._counted)
    assert padded[5]._entropies == pytest.approx(plain[5]._entropies)


@pytest.mark.parametrize("name", ROUTED)
def test_losses_equal_those_without_padding(name):
    x, mask = tokens(3), masks(3)
    routings = [
        run(fresh(name, True), *batch_in)[1] for batch_in in ((x, mask), (stripped(x, mask),))
    ]
    batch = Batch(torch.randn(3, 1, 4, 4, dtype=x.dtype), labels(x))
    for loss in LOSSES.entries():
        values = []
        for routing in routings:
            try:
                values.append(loss.target(routing, batch))
            except RequestError:
                values.append(torch.tensor(torch.nan))
        torch.testing.assert_close(*values, equal_nan=True, msg=loss.name)


@pytest.mark.parametrize("name", sorted(set(ROUTED) - spans))
def test_images_of_different_sizes_do_not_affect_each_other(name):
    x = tokens(4)
    counts = torch.tensor([8, 3, 0, 5])
    mask = torch.arange(TOKENS) < counts[:, None]
    layer = fresh(name, False)
    y, routing = run(layer, x, mask)
    assert isinstance(routing, PaddedRouting)
    for image, count in enumerate(counts):
        own = x[image : image + 1, :count]
        alone, without = run(layer, own) if count else (own, None)
        torch.testing.assert_close(y[image : image + 1, :count], alone)
        assert y[image, count:].eq(0).all()
        if without is not None:
            assert routing.expert_load()[image].equal(without.expert_load()[0])
            assert routing.demand()[image].equal(without.demand()[0])
    full = routing.combine_tensor()
    assert full.shape == (4, TOKENS, 4, routing.num_slots)
    torch.testing.assert_close(full.sum(-1), routing.combine_weights())
    assert (routing.dispatch_tensor() != 0)[~mask].sum() == 0


@pytest.mark.parametrize("name", sorted(set(ROUTED) - {"smear"}))
def test_a_padded_routing_matches_its_two_tensors(name):
    x, mask = tokens(2), masks(2)
    layer = fresh(name, False)
    y, routing = run(layer, x, mask)
    x = x.masked_fill(~mask[..., None], 0).view(*routing.gates.shape[:2], DIM)
    apart = routing.combine(layer.experts(routing.dispatch(x)))
    torch.testing.assert_close(apart.view_as(y), y)


@pytest.mark.parametrize("name", ROUTED)
@pytest.mark.parametrize("training", [True, False])
def test_an_all_padding_batch_gives_zeros(name, training):
    y, routing = run(fresh(name, training), tokens(2), torch.zeros(2, TOKENS).bool())
    assert y.eq(0).all()
    assert routing.expert_load().sum() == 0


@pytest.mark.parametrize(
    "name", [name for name in ROUTED if ROUTERS.get(name).target.ignores_groups]
)
def test_routers_that_ignore_groups_route_the_same_in_any_grouping(name):
    layer = fresh(name, False)
    x = tokens(2)
    y, _ = run(layer, x)
    layer.groups = 4
    torch.testing.assert_close(run(layer, x)[0], y)


def test_shared_experts_do_not_change_padding():
    vit = timm.create_model("test_vit", img_size=32)
    moefy(vit, num_experts=2, shared=1, layers="all")
    layer = next(iter(moe_layers(vit).values()))
    x = torch.randn(2, 8, 64)
    y, _ = run(layer, x, masks(2))
    assert y[~masks(2)].eq(0).all()
    torch.testing.assert_close(y[masks(2)], run(layer, stripped(x, masks(2)))[0].flatten(0, 1))


def test_a_forced_expert_does_not_change_padding():
    layer, x, mask = fresh("mixer", True), tokens(2), masks(2)
    with layer.forced(1):
        y, routing = run(layer, x, mask)
        alone, _ = run(layer, stripped(x, mask))
    assert y[~mask].eq(0).all()
    torch.testing.assert_close(y[mask], alone.flatten(0, 1))
    assert routing.expert_load().sum() == mask.sum()


def test_a_mask_that_does_not_fit_is_refused():
    layer = fresh("softmax_token_choice", False)
    with pytest.raises(RequestError, match=r"a mask of shape \(2, 7\) does not fit the 16 tokens"):
        run(layer, tokens(2), torch.ones(2, 7).bool())
    with pytest.raises(RequestError, match=r"is \(groups, tokens\) bool, here \(2, 8\)"):
        layer.router(tokens(2), RouterContext(mask=torch.ones(2, 8)))


def test_real_tokens_are_derived_from_the_attention_mask():
    low = torch.finfo(torch.float32).min
    real = torch.tensor([[True, True, False], [True, False, False]])
    both = real[:, None, :, None] & real[:, None, None, :]
    assert attended(both).equal(real)
    assert attended(torch.zeros(both.shape).masked_fill(~both, low)).equal(real)
    keys = real[:, None, None, :]
    assert attended(torch.zeros(keys.shape).masked_fill(~keys, -torch.inf)).equal(real)
    causal = torch.ones(2, 1, 3, 3).tril().bool()
    assert attended(causal).all()


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("key_only", [False, True])
def test_naflexvit_passes_its_mask_to_its_moe_layers(checkpointed, key_only):
    torch.manual_seed(0)
    vit = timm.create_model(
        "naflexvit_base_patch16_gap",
        embed_dim=32,
        depth=2,
        num_heads=2,
        patch_size=4,
        num_classes=3,
        reg_tokens=1,
        use_key_only_attn_mask=key_only,
    )
    vit.set_grad_checkpointing(checkpointed)
    model = moefy(vit, num_experts=3, layers="all", input_size=(3, 16, 16)).train()
    valid = torch.arange(12) < torch.tensor([[12], [7], [4]])
    batch = {
        "patches": torch.randn(3, 12, 48),
        "patch_coord": torch.stack([torch.arange(12) // 4, torch.arange(12) % 4], -1)
        * valid[..., None],
        "patch_valid": valid,
    }

    def answers(batch_in):
        with forward_pass(model) as routings:
            logits = model(batch_in)
        return logits, routings

    logits, routings = answers(batch)
    mask = torch.cat([torch.ones(3, 1).bool(), valid], 1)
    assert [routing.mask.equal(mask) for routing in routings] == [True, True]
    logits.sum().backward()
    batch["patches"] = batch["patches"].masked_fill(~valid[..., None], 5.0)
    torch.testing.assert_close(answers(batch)[0], logits)
    alone = {key: value[1:2, :7] for key, value in batch.items()}
    torch.testing.assert_close(answers(alone)[0], logits[1:2])
