"""The state of a pass stays within it, and activation checkpointing repeats it."""

import copy
import gc
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import timm
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bench.config.schema import TrainConfig
from bench.model import forward_pass, moe_layers, moefy
from bench.model.objective import Objective
from bench.model.recomputation import _TAPES
from routers import RequestError
from routers.token_choice import SoftmaxTokenChoice

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2])


class Inheriting(SoftmaxTokenChoice):
    """Adds the previous layer's logits to its own, as RMoE does."""

    name = "inheriting"

    def compute_logits(self, tokens, context):
        own = super().compute_logits(tokens, context)
        return own if context.previous_logits is None else own + 3 * context.previous_logits


class Stepping(SoftmaxTokenChoice):
    """Reads the step and the labels that it is given."""

    name = "stepping"

    def compute_logits(self, tokens, context):
        shift = context.labels.view(-1, 1, 1) * 0.5 + (context.step or 0)
        return super().compute_logits(tokens, context) * (1 + shift)


def model_of(router="softmax_token_choice", dropout=0.0, **options):
    vit = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=16,
        patch_size=4,
        embed_dim=12,
        depth=4,
        num_heads=2,
        mlp_ratio=2,
        num_classes=5,
        proj_drop_rate=dropout,
    )
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.3)
    moefy(vit, router=router, num_experts=4, layers="all", seed=0, router_options=options)
    for parameter in vit.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return vit.double()


@pytest.fixture(params=[False, True], ids=["non-reentrant", "reentrant"])
def reentrant(request, monkeypatch):
    monkeypatch.setattr("timm.layers.config._USE_REENTRANT_CKPT", request.param)
    return request.param


ROUTERS = [
    ("softmax_token_choice", {"noise_std": 4.0}),
    ("sinkhorn_expert_choice", {"noise_std": 4.0}),
    ("soft_moe", {"noise_std": 1.0}),
    ("random", {}),
    (Stepping, {"noise_std": 4.0}),
    (Inheriting, {"noise_std": 4.0}),
]


def gradients(model, *, inside=False, seed=5):
    """Return loss, gradients and recorded routings of a pass with the noise of `seed`."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(7)  # of dropout
    model.zero_grad()
    images = IMAGES.double()
    with forward_pass(model, labels=LABELS, step=2, generator=generator) as routings:
        loss = model(images).square().sum()
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss, grads, routings, generator.get_state()


def assert_same(got, want):
    assert got[0].equal(want[0])
    assert got[1].keys() == want[1].keys()
    for name in want[1]:
        torch.testing.assert_close(got[1][name], want[1][name], rtol=1e-9, atol=1e-9)
    assert len(got[2]) == len(want[2]) == 4
    for mine, theirs in zip(got[2], want[2], strict=True):
        assert mine.noisy_logits.equal(theirs.noisy_logits)
    assert got[3].equal(want[3])


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
@pytest.mark.parametrize(("router", "options"), ROUTERS)
def test_checkpointing_changes_no_gradient_and_records_each_routing_once(
    router, options, inside, reentrant
):
    model = model_of(router, dropout=0.2, **options)
    want = gradients(model)
    model.set_grad_checkpointing()
    if reentrant and router is Inheriting:
        # Gradients through the previous block's logits would be lost.
        with pytest.raises(RequestError, match="use_reentrant=False"):
            gradients(model, inside=inside)
        return
    assert_same(gradients(model, inside=inside), want)


def test_each_pass_is_repeated_with_its_own_noise(reentrant):
    model = model_of(noise_std=4.0)
    separate = [gradients(model, seed=seed)[1] for seed in (1, 2, 3)]
    model.set_grad_checkpointing()
    model.zero_grad()
    images = IMAGES.double()
    losses = []
    for seed in (1, 2, 3):
        with forward_pass(model, generator=torch.Generator().manual_seed(seed)):
            losses.append(model(images).square().sum())
    for loss in (losses[1], losses[0] + losses[2]):
        loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            total = sum(grads[name] for grads in separate)
            torch.testing.assert_close(parameter.grad, total, rtol=1e-9, atol=1e-9)


def test_two_calls_in_one_forward_pass_are_two_passes(reentrant):
    model = model_of(noise_std=4.0)

    def differentiated():
        model.zero_grad()
        with forward_pass(model, generator=torch.Generator().manual_seed(3)) as routings:
            loss = (model(IMAGES.double()) - model(IMAGES.double().flip(0))).square().sum()
        loss.backward()
        assert len(routings) == 8
        return [p.grad for p in model.parameters() if p.grad is not None]

    want = differentiated()
    model.set_grad_checkpointing()
    for got, expected in zip(differentiated(), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_auxiliary_losses_under_checkpointing_have_their_gradient_or_are_refused(reentrant):
    model = model_of(noise_std=4.0).float()
    objective = Objective(TrainConfig(losses={"importance": 1.0, "load": 1.0}))

    def differentiated():
        model.zero_grad()
        noise = torch.Generator().manual_seed(3)
        objective(model, IMAGES, LABELS, step=0, generator=noise).total.backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    want = differentiated()
    model.set_grad_checkpointing()
    if reentrant:
        with pytest.raises(RequestError, match="use_reentrant=False"):
            differentiated()
        return
    for got, expected in zip(differentiated(), want, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("inside", [True, False])
def test_a_model_can_be_checkpointed_as_a_whole(inside):
    model = model_of(noise_std=4.0)
    want = gradients(model)
    whole = Whole(model)
    loss, grads, routings, state = gradients(whole, inside=inside)
    named = {name.removeprefix("model."): grad for name, grad in grads.items()}
    assert_same((loss, named, routings, state), want)
    whole.reentrant = True
    with pytest.raises(RequestError, match="as a whole with use_reentrant=True"):
        gradients(whole)


class Whole(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.reentrant = model, False

    def forward(self, images):
        images = images.requires_grad_(self.reentrant)
        return checkpoint(self.model, images, use_reentrant=self.reentrant)


def test_without_a_forward_pass_a_reentrant_checkpoint_of_the_whole_model_works():
    model = model_of(Inheriting, noise_std=4.0)
    results = []
    for run in (model, lambda x: checkpoint(model, x, use_reentrant=True)):
        torch.manual_seed(4)
        images = IMAGES.double().requires_grad_()
        run(images).square().sum().backward()
        results.append(images.grad)
    torch.testing.assert_close(*results)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_checkpoint_inside_another_is_refused():
    model = model_of(noise_std=4.0)
    layer = model.blocks[1].mlp
    block = model.blocks[1]
    inner = layer.forward
    layer.forward = lambda x: checkpoint(inner, x, use_reentrant=True)
    outer = block.forward
    block.forward = lambda x: checkpoint(outer, x, use_reentrant=True)
    with pytest.raises(RequestError, match="no checkpoint inside another"):
        gradients(model)


def test_repeating_a_layer_that_ran_twice_is_refused():
    layer = model_of(noise_std=4.0).blocks[1].mlp
    x = torch.randn(2, 17, 12, dtype=torch.float64, requires_grad=True)
    with forward_pass(layer, generator=torch.Generator()) as routings:
        y = sum(checkpoint(layer, x, use_reentrant=False) for _ in range(2))
    assert len(routings) == 2
    with pytest.raises(RequestError, match="run it once in each forward_pass"):
        y.sum().backward()


def test_passes_of_the_parts_of_a_model_are_repeated_too():
    model = model_of(Inheriting, noise_std=4.0)

    def differentiated():
        model.zero_grad()
        with forward_pass(model, generator=torch.Generator().manual_seed(3)) as routings:
            loss = model.forward_features(IMAGES.double()).square().sum()
        loss.backward()
        assert len(routings) == 4
        assert model.blocks[0].mlp.experts.weight1.grad is not None
        return [p.grad for p in model.parameters() if p.grad is not None]

    want = differentiated()
    model.set_grad_checkpointing()
    for got, expected in zip(differentiated(), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_the_state_for_a_repetition_lives_as_long_as_the_graph(reentrant):
    model = model_of(noise_std=4.0)
    model.set_grad_checkpointing()
    gc.collect()
    before = len(_TAPES)
    with forward_pass(model, generator=torch.Generator()):
        loss = model(IMAGES.double()).sum()
    assert len(_TAPES) == before + 1
    loss.backward()
    del loss
    assert len(_TAPES) == before


def test_previous_logits_are_available_outside_a_model_pass_too():
    model = model_of(Inheriting).eval()
    with forward_pass(model) as routings:
        inside = model(IMAGES.double())
    assert inside.equal(model(IMAGES.double()))
    assert routings[-1].logits.requires_grad
    # The pass of another model and a failed pass leave nothing behind.
    with forward_pass(model_of()), pytest.raises(AssertionError):
        model(torch.zeros(1, 3, 8, 8).double())
    assert inside.equal(model(IMAGES.double()))


def test_an_interrupted_call_leaves_nothing_behind():
    model = model_of(Inheriting).eval()
    want = model(IMAGES.double())

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = model.blocks[2].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model(IMAGES.double())
    with pytest.raises(KeyboardInterrupt), forward_pass(model):
        model(IMAGES.double())
    handle.remove()
    assert want.equal(model(IMAGES.double()))
    with forward_pass(model) as routings:
        model(IMAGES.double())
    assert len(routings) == 4


def test_a_nested_pass_does_not_affect_the_outer_one():
    model, other = model_of(noise_std=1.0), model_of()
    seen = []
    first = next(iter(moe_layers(model).values()))
    first.router.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].step))
    with forward_pass(model, step=1) as outer:
        model(IMAGES.double())
        with forward_pass(model, step=2) as inner, forward_pass(other) as others:
            model(IMAGES.double())
            other(IMAGES.double())
        model(IMAGES.double())
    model(IMAGES.double())
    assert (len(outer), len(inner), len(others)) == (8, 4, 4)
    assert seen == [1, 2, 1, None]
    assert not {id(routing) for routing in outer} & {id(routing) for routing in inner}


def test_threads_have_separate_passes():
    model = model_of(Stepping).eval()
    barrier = Barrier(2, timeout=60)
    model.blocks[2].register_forward_pre_hook(lambda *_: (barrier.wait(), None)[1])

    def routed(step):
        recorded = []
        for _ in range(3):
            with torch.no_grad(), forward_pass(model, step=step, labels=LABELS + step) as routings:
                model(IMAGES.double() + step)
            recorded.append([routing.logits for routing in routings])
        return recorded

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(routed, range(2)))
    barrier.abort()
    model.blocks[2]._forward_pre_hooks.clear()
    for step, runs in enumerate(together):
        for run, alone in zip(runs, routed(step), strict=True):
            assert len(run) == 4
            for got, want in zip(run, alone, strict=True):
                torch.testing.assert_close(got, want)


def test_copies_and_pickled_models_have_separate_passes():
    model = model_of(Inheriting).eval()
    want = model(IMAGES.double())
    keys = list(model.state_dict())
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list(copied.state_dict()) == keys
        assert copied(IMAGES.double()).equal(want)
        with forward_pass(copied) as routings, forward_pass(model) as originals:
            copied(IMAGES.double())
        assert (len(routings), len(originals)) == (4, 0)


# torch's compiler inspects objects that warn when inspected.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.slow
@pytest.mark.parametrize("router", ["soft_moe", Inheriting])
def test_a_compiled_model_routes_the_same(router):
    model = model_of(router).eval()
    compiled = torch.compile(model, backend="aot_eager")
    with forward_pass(compiled) as routings:
        inside = compiled(IMAGES.double())
    torch.testing.assert_close(inside, model(IMAGES.double()))
    torch.testing.assert_close(compiled(IMAGES.double()), inside)
    assert len(routings) == 4
