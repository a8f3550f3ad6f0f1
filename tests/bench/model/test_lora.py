"""Low-rank experts with orthonormal outputs on a frozen MLP (2501.10062)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.compute import count_flops
from bench.data import DataShape
from bench.model import build_experts, moe_layers, reweighted
from bench.model.build import TRANSFORMS, Parent, starting_model, trial_model
from bench.model.experts import ReplacedMLP
from bench.model.experts.lora import orthonormal
from routers import RequestError, Routing, SoftRouting, TokenChoiceRouting
from suites.specialization import Similarity

DIM, E, GROUPS, TOKENS = 6, 4, 2, 5
SHAPE = DataShape((1, 8, 8), 4, 96)


def experts(**options):
    torch.manual_seed(0)
    made = build_experts("lora", num_experts=E, replaced=ReplacedMLP(DIM, 8), **options)
    return made.double()


def routing_of(k: int, capacity: int | None = None) -> Routing:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(GROUPS, TOKENS, E, generator=generator, dtype=torch.float64)
    return TokenChoiceRouting.top_k(logits.softmax(-1), k, capacity)


@given(st.integers(1, 5), st.integers(5, 9), st.integers(0, 99), st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_independent_vectors_become_those_of_a_qr_decomposition(k, dim, seed, scale):
    vectors = np.random.default_rng(seed).normal(size=(k, dim)) * scale
    q, r = np.linalg.qr(vectors.T)
    want = (q * np.sign(np.diag(r))).T
    np.testing.assert_allclose(orthonormal(torch.tensor(vectors)).numpy(), want, atol=1e-9)


def test_the_gradient_is_that_of_the_gram_schmidt_process():
    vectors = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(orthonormal, (vectors,))


def test_zero_and_dependent_vectors_become_zero_without_a_gradient():
    first, last = torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    zero = torch.zeros(4, dtype=torch.float64)
    vectors = torch.stack([zero, first, -3 * first, last]).requires_grad_()
    made = orthonormal(vectors)
    assert made[[0, 2]].eq(0).all()
    torch.testing.assert_close(made[[1, 3]], orthonormal(torch.stack([first, last])))
    made.sum().backward()
    assert vectors.grad.isfinite().all()
    assert vectors.grad[[0, 2]].eq(0).all()
    assert vectors.grad[1].abs().sum() > 0


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("capacity", [None, 2])
def test_the_layer_equals_a_loop_over_tokens(orthogonal, capacity):
    layer, routing = experts(orthogonal=orthogonal), routing_of(3, capacity)
    x = torch.randn(GROUPS, TOKENS, DIM, dtype=torch.float64)
    want = layer.adapted(x).detach().numpy()
    for g, t in np.ndindex(GROUPS, TOKENS):
        before: list[np.ndarray] = []
        for j in range(3):
            if not routing.kept[g, t, j]:
                continue
            e = int(routing.experts[g, t, j])
            vector = (x[g, t] @ layer.down[e] @ layer.up[e]).detach().numpy()
            if orthogonal:
                vector = vector - sum(v * (v @ vector) for v in before)
                vector = vector / np.linalg.norm(vector)
                before.append(vector)
            want[g, t] += routing.weights[g, t, j].item() * vector
    np.testing.assert_allclose(layer.apply(routing, x).detach().numpy(), want, atol=1e-9)
    assert (routing.dropped_share() > 0) == (capacity == 2)


def test_the_base_is_frozen_and_all_experts_learn():
    layer, x = experts(), torch.randn(GROUPS, TOKENS, DIM, dtype=torch.float64)
    layer.apply(routing_of(2), x).square().sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in layer.adapted.parameters())
    assert all((p.grad.flatten(1).abs().sum(1) > 0).all() for p in (layer.down, layer.up))


def test_the_rows_of_a_dense_mlp_have_the_same_flops():
    torch.manual_seed(0)
    layer = build_experts("lora", num_experts=E, replaced=ReplacedMLP(32, 64), orthogonal=False)
    routing, x = routing_of(2), torch.randn(GROUPS, TOKENS, 32)
    with torch.no_grad():
        own = count_flops(layer.apply, routing, x).by_kind["matmul"]
        dense = count_flops(layer.adapted, torch.randn(layer.rows(routing), 32)).by_kind["matmul"]
    assert dense == pytest.approx(own, rel=0.1)


def test_experts_that_tokens_do_not_choose_are_refused():
    routing = SoftRouting.from_logits(torch.randn(GROUPS, TOKENS, E, 2, dtype=torch.float64))
    with pytest.raises(RequestError, match="use a router whose tokens choose"):
        experts().apply(routing, torch.zeros(GROUPS, TOKENS, DIM, dtype=torch.float64))


@pytest.fixture
def child(tiny_spec):
    """A trial with adapters, derived from a dense one, and its parent's model."""

    def make(experts_name="lora", parent="dense"):
        spec = tiny_spec(experts={"name": experts_name}, router={"top_k": 2})
        spec = spec.derived(tiny_spec(parent), "adapt")
        return spec, trial_model(spec.parent, SHAPE)

    return make


def test_adapting_takes_the_weights_of_the_dense_model_and_freezes_them(child):
    spec, parent = child()
    model = starting_model(spec, SHAPE, Parent(parent)).eval()
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    mine = (".router.", ".experts.down", ".experts.up", "head.")
    assert learning == {n for n, _ in model.named_parameters() if any(part in n for part in mine)}
    layers, images = list(moe_layers(model).values()), torch.randn(3, 1, 8, 8)
    off = {index: torch.zeros(E) for index in range(len(layers))}
    with reweighted(layers, off):
        torch.testing.assert_close(model(images), parent.eval()(images))
    assert not torch.allclose(model(images), parent(images))


def test_experts_without_a_trained_mlp_are_refused(child, tiny_spec):
    with pytest.raises(RequestError, match=r"derive the trial from one.*transform: adapt"):
        starting_model(tiny_spec(experts={"name": "lora"}), SHAPE, None)
    spec, parent = child(parent="softmax_token_choice")
    with pytest.raises(RequestError, match=r"choose the parent 'dense'"):
        starting_model(spec, SHAPE, Parent(parent))
    spec, parent = child("mlp")
    with pytest.raises(RequestError, match=r"'mlp' do not: set experts.name = lora"):
        starting_model(spec, SHAPE, Parent(parent))
    with pytest.raises(RequestError, match="none of the child's"):
        TRANSFORMS.get("adapt").target(torch.nn.Linear(2, 3), torch.nn.Linear(4, 5))


@pytest.mark.parametrize("orthogonal", [True, False])
def test_the_similarity_of_outputs_is_the_mean_cosine_over_pairs_of_experts(orthogonal):
    layer, routing = experts(orthogonal=orthogonal), routing_of(3, 2)
    x = torch.randn(GROUPS, TOKENS, DIM, dtype=torch.float64)
    with torch.no_grad():
        layer.apply(routing, x)
    cosines = []
    for g, t in np.ndindex(GROUPS, TOKENS):
        chosen = routing.experts[g, t][routing.kept[g, t]].tolist()
        vectors = [(x[g, t] @ layer.down[e] @ layer.up[e]).detach().numpy() for e in chosen]
        cosines += [
            abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b)
            for i, a in enumerate(vectors)
            for b in vectors[:i]
        ]
    similarity = Similarity()
    similarity.add(routing)
    values = {metric.where["of"]: metric.value for metric in similarity.metrics()}
    assert values["outputs"] == pytest.approx(np.mean(cosines))
    combined = 0 if orthogonal else np.mean(cosines)
    assert values["directions"] == pytest.approx(combined, abs=1e-12)
