from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from routers import MixtureRouting, TokenChoiceRouting
from suites import Array, Metric, build_suite
from suites.stability import Choices, Seen, compare


def measured(subject, **options):
    results = list(build_suite("stability", **options).measure(subject))
    return {(r.name, r.layer, r.step, r.where.get("between")): r for r in results}


def choices(gates, **taken):
    return Choices.of(TokenChoiceRouting.top_k(gates, 2, None, **taken), 1, 1)


def values(one, other):
    return {metric.name: metric.value for metric in one.agreement(other)}


def test_a_routing_agrees_with_itself(router, trial):
    (batch,) = trial(router).run(trial(router).model, "test", batch_size=40)
    for routing in batch.routings:
        own = Choices.of(routing, 40, 40)
        assert values(own, own) == pytest.approx(dict.fromkeys(values(own, own), 1.0), abs=1e-6)


def test_agreement_equals_its_token_by_token_definition():
    first, second = torch.rand(2, 1, 30, 4).softmax(-1)
    one, other = choices(first, renormalize=True), choices(second, renormalize=True)
    got = values(one, other)
    sets = zip(one.taken.numpy(), other.taken.numpy(), strict=True)
    assert got["set_agreement"] == pytest.approx(np.mean([jaccard_score(*pair) for pair in sets]))
    assert got["first_agreement"] == float((first.argmax(-1) == second.argmax(-1)).double().mean())
    total_variation = (one.shares - other.shares).abs().sum(-1) / 2
    assert got["share_agreement"] == pytest.approx(1 - float(total_variation.mean()), abs=1e-6)


def test_an_unprocessed_token_agrees_only_with_an_unprocessed_one():
    experts, weights = torch.zeros(1, 4, 1, dtype=torch.long), torch.ones(1, 4, 1)
    gates = torch.tensor([1.0, 0.0]).expand(1, 4, 2)
    all_kept, one_kept, two_kept = (
        Choices.of(TokenChoiceRouting.from_choices(gates, experts, weights, slots), 1, 1)
        for slots in (None, 1, 2)
    )
    assert one_kept.shares[:, 0].tolist() == [0, 1, 1, 1]
    assert values(all_kept, one_kept) == {
        **{"share_agreement": 0.25, "set_agreement": 0.25, "first_agreement": 1.0}
    }
    assert values(one_kept, two_kept)["share_agreement"] == 0.75


def test_soft_routings_agree_by_their_known_overlap():
    one, other = (torch.tensor([[[a, 1 - a]]]) for a in (0.9, 0.4))
    first, second = (Choices.of(MixtureRouting(gates), 1, 1) for gates in (one, other))
    assert values(first, second)["share_agreement"] == pytest.approx(0.5)
    of_sets = [m for m in first.agreement(second) if m.name == "set_agreement"]
    assert [(m.value, m.where) for m in of_sets] == [(1.0, {"constant": True})]


def test_the_batch_changes_nothing_if_groups_are_images(trial):
    got = measured(trial("softmax_token_choice"))
    for layer in (None, 0, 1):
        for name in ("first_agreement", "set_agreement"):
            metric = got[name, layer, None, "batch sizes"]
            assert (metric.value, metric.where["constant"]) == (1.0, True)
    assert got["top1_change", None, None, None].value == 0


def test_the_batch_changes_the_routing_if_groups_span_it():
    """Expert 0 has room for half of a batch: in a single batch, only for the first images."""

    def seen(images):
        routings = [
            TokenChoiceRouting.from_choices(
                torch.ones(1, n, 2) / 2, torch.zeros(1, n, 1).long(), torch.ones(1, n, 1), n // 2
            )
            for n in images
        ]
        layer = [Choices.of(r, n, n) for r, n in zip(routings, images, strict=True)]
        return Seen([Choices.joined(layer)], 0.0, False)

    shares = {m.name: m.value for m in compare(seen([8]), seen([4, 4]), "batch sizes")}
    assert shares == {"first_agreement": 1.0, "share_agreement": 0.5, "set_agreement": 0.5}


def test_snapshots_are_compared_with_the_previous_one_and_the_last(trial):
    subject = trial("softmax_token_choice")
    first, last = (snapshot.load() for snapshot in subject.snapshots)
    got = measured(subject)
    (before,), (after,) = (subject.run(model, "val", batch_size=40) for model in (first, last))
    for layer in (0, 1):
        pair = (each.routings[layer].first_choice() for each in (before, after))
        agree = float(torch.eq(*pair).double().mean())
        assert got["first_agreement", layer, 30, "snapshots"].value == agree
        assert got["first_agreement", layer, 0, "snapshot and end"].value == agree
        assert got["first_agreement", layer, None, "snapshots"].value == agree
    assert ("first_agreement", None, 0, "snapshots") not in got
    assert ("first_agreement", None, 30, "snapshot and end") not in got


def test_a_single_snapshot_has_nothing_to_compare_with(trial):
    subject = trial("soft_moe")
    subject.snapshots = subject.snapshots[:1]
    assert not [place for place in measured(subject) if place[3] == "snapshots"]


def test_the_stored_sample_comes_from_the_routing_and_is_small(trial):
    subject = trial("softmax_token_choice")
    got = measured(subject, sampled_tokens=60, images=30)
    (batch,) = subject.run(subject.model, "test", batch_size=40)
    first = batch.routings[1].first_choice()[:30].flatten()
    spaced = np.linspace(0, 30 * 12 - 1, 60).round().astype(int)
    sampled = got["sampled_first", 1, None, None].values
    assert sampled.tolist() == first[spaced].tolist()
    shares = got["sampled_shares", 1, None, None].values
    assert (shares.shape, shares.dtype) == ((60, 5), np.float16)
    assert shares.sum(1) == pytest.approx(1, abs=2e-3)
    assert not [r for r in measured(subject, sampled_tokens=0).values() if isinstance(r, Array)]


def test_images_are_the_same_for_any_training_batch_size(trial):
    def numbers(size):
        results = measured(trial("softmax_token_choice", batch_size=size), images=10)
        return {place: r.value for place, r in results.items() if isinstance(r, Metric)}

    assert numbers(7) == pytest.approx(numbers(40), abs=1e-6)


def test_a_dense_model_has_no_routing(trial):
    assert build_suite("stability").applies_to(trial("dense")) == "the model has no MoE layer"
