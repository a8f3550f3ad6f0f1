"""Masks and non-finite logits, for all registered routers."""

import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from routers import (
    LOSSES,
    ROUTERS,
    Baseline,
    Batch,
    ExpertChoiceRouting,
    MixtureRouting,
    NonFiniteError,
    Router,
    Site,
    SoftRouting,
    TokenChoiceRouting,
    build_router,
    list_routers,
)
from routers.transport import sinkhorn_plan, sparse_plan

NAMES = [
    name
    for name in list_routers()
    if "." not in name and not issubclass(ROUTERS.get(name).target, Baseline)
]
TOKENS_CHOOSE = [
    *("softmax_token_choice", "sinkhorn_token_choice", "frozen", "random", "hash"),
    *("sigmoid_top_k", "loss_free", "quantile_balancing"),
]
UNMASKED = ["forced", "dselect_k"]
"""Routers without maskable logits: one uses none, the other those of bits, not of experts."""
SLOTS = 2


def build(name, tokens, experts, **options):
    if name == "soft_moe":
        options = {"num_slots": SLOTS, **options}
    site = Site(expert_hidden=5)
    return build_router(name, dim=6, num_experts=experts, tokens=tokens, site=site, **options)


def logits_of(name, groups, tokens, experts, seed=0, scale=1.0):
    shape = (groups, tokens, experts) + ((SLOTS,) if name == "soft_moe" else ())
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator)


# Masks


@st.composite
def masked_cases(draw):
    groups, tokens, experts = draw(st.integers(1, 2)), draw(st.integers(1, 7)), 4
    seed = draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    masked = torch.rand(groups, tokens, experts, generator=generator) < draw(st.floats(0, 1))
    if draw(st.booleans()):
        masked[..., draw(st.integers(0, 3))] = True
    keep = torch.randint(0, experts, (groups, tokens, 1), generator=generator)
    if not masked.all(1).any() or draw(st.booleans()):
        keep = keep.clamp(max=2)  # may leave an expert without a token
    return masked.scatter(-1, keep, False), seed, draw(st.sampled_from([0.1, 1.0, 60.0]))


def settings_of(name):
    own = {"top_k": 3} if name in TOKENS_CHOOSE else {}
    if name in ("softmax_mixture", "attentive"):
        own = {"weighed_top_k": 3}
    return own


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNMASKED])
@given(masked_cases())
@settings(deadline=None, max_examples=25)
def test_a_masked_pair_is_never_chosen_and_has_weight_0(name, case):
    masked, seed, scale = case
    groups, tokens, experts = masked.shape
    leaf = logits_of(name, groups, tokens, experts, seed, scale).requires_grad_()
    wide = masked.unsqueeze(-1).expand_as(leaf) if leaf.dim() == 4 else masked
    logits = leaf.masked_fill(wide, -torch.inf)
    router = build(name, tokens, experts, **settings_of(name))
    routing = router.allocate(logits)
    d, c = routing.dispatch_tensor(), routing.combine_tensor()
    assert d.isfinite().all()
    assert c.isfinite().all()
    assert (c[masked] == 0).all()
    assert (routing.combine_weights()[masked] == 0).all()
    assert (routing.gates[masked] == 0).all()
    torch.testing.assert_close(routing.gates.sum(-1), torch.ones(groups, tokens))
    if not isinstance(routing, MixtureRouting):
        assert (d[masked] == 0).all()
    allowed = ~masked
    if name in TOKENS_CHOOSE:
        assert routing.demand().sum(-1).equal(allowed.sum(-1).clamp(max=3).sum(-1))
    if isinstance(routing, TokenChoiceRouting):
        assert (routing.expert_load() <= routing.demand()).all()
    if isinstance(routing, ExpertChoiceRouting):
        room = torch.tensor(routing.num_slots)
        assert routing.expert_load().equal(allowed.sum(1).minimum(room))
    if isinstance(routing, SoftRouting):
        has_candidate = allowed.any(1).float().unsqueeze(-1).expand(-1, -1, SLOTS)
        torch.testing.assert_close(d.sum(1), has_candidate)
        torch.testing.assert_close(c.sum((2, 3)), torch.ones(groups, tokens))
    x = torch.randn(groups, tokens, 3)
    torch.testing.assert_close(routing.dispatch(x), torch.einsum("gtes,gtd->egsd", d.float(), x))
    slots = torch.randn(experts, groups, routing.num_slots, 3)
    y = routing.combine(slots)
    torch.testing.assert_close(y, torch.einsum("gtes,egsd->gtd", c, slots))
    if y.requires_grad:
        (gradient,) = torch.autograd.grad((y**2).sum() + (d**2).sum(), leaf)
        assert gradient.isfinite().all()
        assert (gradient[wide] == 0).all()


@pytest.mark.parametrize("loss", sorted(LOSSES.names()))
@given(masked_cases())
@settings(deadline=None, max_examples=25)
def test_losses_of_masked_logits_are_finite_and_so_are_their_gradients(loss, case):
    masked, seed, scale = case
    groups, tokens, experts = masked.shape
    leaf = logits_of("frozen", groups, tokens, experts, seed, scale).requires_grad_()
    router = build("softmax_token_choice", tokens, experts, top_k=3, noise_std=1.0)
    router.compute_logits = lambda tokens, context: leaf.masked_fill(masked, -torch.inf)
    routing = router(torch.zeros(groups, tokens, 6))
    batch = Batch(torch.randn(groups, 5), torch.zeros(groups, dtype=torch.long))
    value = LOSSES.get(loss).target(routing, batch)
    (gradient,) = torch.autograd.grad(value, leaf)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert (gradient[masked] == 0).all()


@given(masked_cases())
@settings(deadline=None)
def test_plans_give_masked_pairs_nothing_and_keep_their_sums(case):
    masked, seed, scale = case
    groups, tokens, experts = masked.shape
    logits = logits_of("frozen", groups, tokens, experts, seed, scale)
    logits = logits.masked_fill(masked, -torch.inf)
    entropic = sinkhorn_plan(logits)
    assert (entropic.plan[masked] == 0).all()
    torch.testing.assert_close(entropic.plan.sum(-1), torch.ones(groups, tokens))
    gates = logits.softmax(-1).masked_fill(masked, -torch.inf)
    sparse = sparse_plan(gates, tokens)
    assert (sparse.plan[masked] == 0).all()
    open_columns = (~masked).any(1)
    mass = torch.tensor(tokens / experts)
    torch.testing.assert_close(sparse.plan.sum(1), torch.where(open_columns, mass, 0.0))
    for plan in (entropic, sparse):
        assert plan.marginal_error.isfinite().all()
        assert (plan.scores[masked] == -torch.inf).all()
    assert sparse.dual_value.isfinite().all()


def test_sinkhorn_keeps_its_column_sums_if_the_mask_allows_them():
    logits = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(0))
    logits[0, :2, 0] = -torch.inf
    plan = sinkhorn_plan(logits, iterations=200).plan
    torch.testing.assert_close(plan.sum(1), torch.full((1, 4), 2.0))


def test_mumoe_normalises_around_a_mask():
    router = build("mumoe", 5, 4)
    score = torch.randn(2, 5, 4)
    score[0, 1, 2] = -torch.inf
    router.gate.forward = lambda tokens, context: score
    for routing in (router(torch.zeros(2, 5, 6)), router.eval()(torch.zeros(2, 5, 6))):
        assert routing.gates[0, 1, 2] == 0
        assert routing.gates.isfinite().all()
        assert routing.logits[score.isfinite()].isfinite().all()


# Non-finite logits


BAD = {"nan": math.nan, "inf": math.inf}


@pytest.mark.parametrize("name", NAMES)
@given(st.sampled_from([*BAD, "masked"]), st.integers(0, 1), st.integers(0, 4), st.integers(0, 3))
@settings(deadline=None, max_examples=12)
def test_logits_that_cannot_be_routed_are_refused_by_token(name, kind, group, token, expert):
    logits = logits_of(name, 2, 5, 4)
    if kind == "masked":
        logits[group, token] = -torch.inf
        message = f"token {token} of group {group} has no finite logit"
    else:
        logits[group, token, expert] = BAD[kind]
        message = f"token {token} of group {group} has the logit {kind} for expert {expert}"
    router = build(name, 5, 4)
    with pytest.raises(NonFiniteError, match=message) as refused:
        router.allocate(logits)
    assert refused.value.router is router
    router.compute_logits = lambda tokens, context: logits
    with pytest.raises(NonFiniteError, match=message):
        router(torch.zeros(2, 5, 6))


@pytest.mark.parametrize("name", ["softmax_token_choice", "sinkhorn_expert_choice", "soft_moe"])
def test_noisy_logits_are_refused_too(name):
    router = build(name, 5, 4, noise_std=1.0)
    logits = logits_of(name, 2, 5, 4)
    logits[1, 3] = math.nan
    router.compute_logits = lambda tokens, context: logits
    with pytest.raises(NonFiniteError, match="token 3 of group 1"):
        router(torch.zeros(2, 5, 6))


def test_each_mode_of_experts_needs_a_finite_logit():
    site = Site(levels=(2, 3))
    router = build_router("mumoe", dim=6, num_experts=6, tokens=5, site=site)
    logits = torch.zeros(1, 5, 5)
    logits[0, 2, :2] = -torch.inf
    with pytest.raises(NonFiniteError, match="token 2 of group 0 has no finite logit"):
        router.allocate(logits)


def test_a_users_router_is_checked_too():
    class Own(Router):
        """A softmax router, as a user writes it."""

        def allocate(self, logits):
            return TokenChoiceRouting.top_k(torch.softmax(logits, -1), k=1, capacity=None)

    router = Own(6, 4)
    with pytest.raises(NonFiniteError, match=r"token 0 of group 0 .*so have 4 more of 5 tokens"):
        router(torch.full((1, 5, 6), math.nan))


@pytest.mark.parametrize("plan", [sinkhorn_plan, lambda gates: sparse_plan(gates, 2)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_plans_refuse_non_finite_logits(plan, value):
    scores = torch.zeros(2, 6, 3)
    scores[1, 4, 2] = value
    with pytest.raises(NonFiniteError, match=f"token 4 of group 1 has the (logit|gate) {value}"):
        plan(scores)


def test_the_error_can_be_sent_between_processes_without_its_router():
    error = pickle.loads(pickle.dumps(NonFiniteError("token 0", torch.nn.Linear(2, 2))))
    assert (str(error), error.router) == ("token 0", None)
