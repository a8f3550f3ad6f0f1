from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mutual_info_score, normalized_mutual_info_score

from routers import BenchError, Site
from suites import Metric, build_suite
from suites.entropy import OF, LayerMasses
from suites.support.information import ImageMasses, class_table
from suites.support.subject import routers_of


def measured(subject, **options):
    results = list(build_suite("entropy", **options).measure(subject))
    return {(r.name, r.layer, r.where.get("of"), r.where.get("kind")): r for r in results}


def test_entropies_match_scikit_learn_and_scipy_token_by_token(router, trial):
    subject = trial(router)
    got = measured(subject)
    batches = list(subject.run(subject.model, "test"))
    labels = torch.cat([batch.labels for batch in batches]).numpy()
    predictions = torch.cat([batch.logits.argmax(-1) for batch in batches]).numpy()
    for layer in (0, 1):
        for of in ("gates", "combine"):
            routings = [batch.routings[layer] for batch in batches]
            weights = torch.cat(
                [
                    (r.gates if of == "gates" else r.combine_weights()).flatten(0, 1)
                    for r in routings
                ]
            )
            weights = weights.double().numpy()
            tokens = len(weights) // len(labels)
            kept = weights.sum(1) > 0
            p = weights[kept] / weights[kept].sum(1, keepdims=True)
            label, predicted = labels.repeat(tokens)[kept], predictions.repeat(tokens)[kept]

            def value(name, kind, layer=layer, of=of):
                return got[name, layer, of, kind].value

            assert value("left_out", None) == pytest.approx(1 - kept.mean())
            assert value("H_s", "soft") == pytest.approx(
                stats.entropy(p.T, base=2).mean(), abs=1e-9
            )
            assert value("H_u", "soft") == pytest.approx(stats.entropy(p.sum(0), base=2))
            chosen = p.argmax(1)
            assert value("H_u", "hard") == pytest.approx(
                stats.entropy(np.bincount(chosen), base=2), abs=1e-9
            )
            for name, classes in (("MI_label", label), ("MI_prediction", predicted)):
                nats = mutual_info_score(classes, chosen)
                assert value(name, "hard") == pytest.approx(nats / math.log(2), abs=1e-9)
                table = np.array([p[classes == c].sum(0) for c in np.unique(classes)])
                independent = np.outer(table.sum(1), table.sum(0))
                bits = stats.entropy(table.ravel(), independent.ravel(), base=2)
                assert value(name, "soft") == pytest.approx(bits, abs=1e-9)


def test_the_start_is_measured_with_the_same_definition_on_the_first_images(trial):
    subject = trial("softmax_token_choice")
    begun = subject.snapshots[1].load()
    subject.snapshots[0].model = begun
    results = [r for r in build_suite("entropy").measure(subject) if r.name == "H_s"]
    started = {(r.layer, r.where["of"]): r.value for r in results if r.step == 0}
    ended = {(r.layer, r.where["of"]): r.value for r in results if r.step is None}
    subject.model = begun  # if the training ends as it began
    again = build_suite("entropy").measure(subject)
    whole = {(r.layer, r.where["of"]): r.value for r in again if r.name == "H_s" and r.step is None}
    assert started == pytest.approx(whole)
    assert started.keys() == ended.keys() == {(n, of) for n in (0, 1, None) for of in OF}
    assert started[0, "gates"] != pytest.approx(ended[0, "gates"])
    asked = len(subject.asked)
    list(build_suite("entropy", start_images=17).at_start(subject))
    assert [images for _, images in subject.asked[asked:]] == [16, 16]


def test_an_unknown_start_is_left_out(trial):
    for subject, options in (
        (trial("softmax_token_choice", snapshots=[]), {}),
        (trial("softmax_token_choice"), {"start_images": 0}),
    ):
        results = list(build_suite("entropy", **options).measure(subject))
        assert {result.step for result in results} == {None}


def test_the_normalised_value_divides_by_the_smaller_entropy_minus_the_bias(trial):
    subject = trial("softmax_token_choice")
    got = measured(subject)
    place = (0, "gates", "hard")
    plain, corrected, normalised = (
        got[f"MI_label{ending}", *place].value for ending in ("", "_corrected", "_normalised")
    )
    (batch,) = subject.run(subject.model, "test", batch_size=40)
    chosen = batch.routings[0].gates.argmax(-1)
    labels = batch.labels.unsqueeze(1).expand_as(chosen)
    oracle = normalized_mutual_info_score(labels.flatten(), chosen.flatten(), average_method="min")
    bound = plain / oracle - (plain - corrected)
    assert normalised == pytest.approx(corrected / bound)


@given(images=st.integers(20, 200), num_classes=st.integers(2, 10), seed=st.integers(0, 99))
def test_an_oracle_knows_all_at_any_number_of_images(images, num_classes, seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(num_classes, (images - num_classes,), generator=generator)
    classes = torch.cat([torch.arange(num_classes), drawn])  # each at least once
    masses = torch.nn.functional.one_hot(classes, 16).double()
    got = build_suite("entropy").information(masses, classes)
    assert got["_normalised"] == pytest.approx(1)


def test_the_normalised_value_is_left_out_if_no_information_is_possible():
    one_expert = torch.tensor([[1.0, 0.0]] * 6).double()
    got = build_suite("entropy").information(one_expert, torch.arange(6) % 3)
    assert got == pytest.approx({"": 0, "_corrected": 0}, abs=1e-12)


def test_the_correction_removes_the_plug_in_bias():
    """The example from the definitions: 0.24 bits at 10⁴ samples, 32 experts, 100 classes."""
    generator = torch.Generator().manual_seed(0)
    experts = torch.randint(32, (10_000,), generator=generator)
    classes = torch.randint(100, (10_000,), generator=generator)
    masses = torch.nn.functional.one_hot(experts, 32).double()
    got = build_suite("entropy").information(masses, classes)
    assert got[""] == pytest.approx(0.24, abs=0.03)
    assert got["_corrected"] == pytest.approx(0, abs=0.02)


def test_class_permutations_keep_the_tokens_of_an_image_together():
    """Tokens that follow their image, not its class, predict the class only by chance."""
    generator = torch.Generator().manual_seed(0)
    experts = torch.randint(4, (60,), generator=generator)
    classes = torch.randint(10, (60,), generator=generator)
    one_token = torch.nn.functional.one_hot(experts, 4).double()
    suite = build_suite("entropy")
    assert suite.information(49 * one_token, classes) == pytest.approx(
        suite.information(one_token, classes), abs=1e-12
    )


def test_the_permutations_are_seeded(trial):
    subject = trial("softmax_token_choice")

    def corrected(**options):
        return measured(subject, **options)["MI_label_corrected", 0, "gates", "soft"].value

    assert corrected(seed=3) == corrected(seed=3)
    assert corrected(seed=3) != corrected(seed=4)


def test_results_do_not_depend_on_the_batch_size(trial):
    def values(size):
        got = measured(trial("softmax_token_choice", batch_size=size))
        return {place: r.value for place, r in got.items() if isinstance(r, Metric)}

    assert values(7) == pytest.approx(values(40), abs=1e-9)


def test_the_complete_table_is_stored(trial):
    subject = trial("softmax_token_choice")
    got = measured(subject)
    (batch,) = subject.run(subject.model, "test", batch_size=40)
    table = got["class_expert", 1, "gates", "hard"].values
    chosen = batch.routings[1].gates.argmax(-1)
    for label in range(subject.num_classes):
        counts = chosen[batch.labels == label].flatten().bincount(minlength=4)
        assert table[label].tolist() == counts.tolist()
    assert got["class_names", None, None, None].values.tolist() == subject.class_names
    soft = got["class_expert", 1, "combine", "soft"].values
    left_out = got["left_out", 1, "combine", None].value
    assert soft.sum() == pytest.approx((1 - left_out) * chosen.numel(), rel=1e-6)


def test_groups_may_span_images():
    """Tokens are in the order of the images, however they are grouped."""
    weights = torch.rand(4, 6, 3)
    by_image, by_batch, by_pair = ImageMasses(), ImageMasses(), ImageMasses()
    by_image.add(weights, 4)
    by_batch.add(weights.reshape(1, 24, 3), 4)
    by_pair.add(weights.reshape(8, 3, 3), 4)
    for other in (by_batch, by_pair):
        assert torch.equal(by_image.of_kind("soft"), other.of_kind("soft"))


def test_weights_that_are_no_distribution_are_refused():
    with pytest.raises(BenchError, match=r"weights of -0\.5"):
        ImageMasses().add(torch.tensor([[[-0.5, 1.5]]]), 1)
    with pytest.raises(BenchError, match="5 tokens does not divide over 2 images"):
        ImageMasses().add(torch.ones(1, 5, 2), 2)


def test_if_no_token_was_processed_nothing_else_is_reported():
    masses = ImageMasses()
    masses.add(torch.zeros(2, 3, 4), 2)
    label = torch.tensor([0, 1])
    layer = LayerMasses(kinds=())
    layer.of = {"combine": masses}
    got = list(build_suite("entropy").of_layer(layer, label, label))
    assert [(metric.name, metric.value) for metric in got] == [("left_out", 1.0)]


def test_ties_go_to_the_first_expert():
    masses = ImageMasses()
    masses.add(torch.full((1, 2, 3), 1 / 3), 1)
    assert masses.of_kind("hard").tolist() == [[2, 0, 0]]


def test_class_table_by_hand():
    masses = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 2.0]])
    table = class_table(masses, torch.tensor([2, 0, 2]), 3)
    assert table.tolist() == [[0.5, 0.5], [0.0, 0.0], [1.0, 2.0]]


def test_kinds_of_experts_are_counted_by_layer_and_class(trial):
    subject = trial("softmax_token_choice")
    kinds = ("mlp", "mlp", "copy", "zero")
    assert not any(r.name.startswith("kind") for r in build_suite("entropy").measure(subject))
    for router in routers_of(subject.model):
        router.site = Site(kinds=kinds)
    results = list(build_suite("entropy").measure(subject))
    batches = list(subject.run(subject.model, "test"))
    labels = torch.cat([batch.labels for batch in batches])
    names = ["mlp", "copy", "zero"]
    for layer in (0, 1):
        # One at a time: the class of each processed choice, and the kind of its expert.
        counts = np.zeros((subject.num_classes, len(names)))
        taken = torch.cat([b.routings[layer].dispatch_tensor().sum(-1) for b in batches])
        for image, token, expert in taken.nonzero().tolist():
            counts[labels[image], names.index(kinds[expert])] += 1
            assert taken[image, token].sum() == 1
        (table,) = (r for r in results if r.name == "class_kind" and r.layer == layer)
        expected = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        np.testing.assert_allclose(table.values, expected, atol=1e-6)
        (listed,) = (r for r in results if r.name == "kind_names" and r.layer == layer)
        assert list(listed.values) == names
        shares = {
            r.where["kind_of_expert"]: r.value
            for r in results
            if r.name == "kind_share" and r.layer == layer
        }
        assert list(shares.values()) == pytest.approx(list(counts.sum(0) / counts.sum()))


def test_sizes_of_heterogeneous_experts_are_stored(trial):
    subject = trial("softmax_token_choice")
    assert not any(place[0] == "expert_sizes" for place in measured(subject))
    for router in routers_of(subject.model):
        router.site = replace(router.site, expert_sizes=(10, 20, 40, 80))
    assert measured(subject)["expert_sizes", 1, None, None].values.tolist() == [10, 20, 40, 80]
