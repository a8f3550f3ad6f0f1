from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import sqrt

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from routers import TokenChoiceRouting
from suites import Observed, build_suite
from suites.specialization import polysemanticity

NAN = float("nan")


def measured(subject, **options):
    results = list(build_suite("specialization", **options).measure(subject))
    return {(r.name, r.layer): r.value if hasattr(r, "value") else r.values for r in results}


@dataclass
class Deciders:
    """A subject whose i-th image has one token, which goes to expert `experts[i]`.

    Args:
        labels: the classes of the images.
        experts: the one layer's expert of each image.
        with_it, without: what is answered of each image while its expert is on, and is off.
        weights: the combine weight of each image.
    """

    labels: list[int]
    experts: list[int]
    with_it: list[int]
    without: list[int]
    num_experts: int
    num_classes: int
    weights: list[float] | None = None
    batch_size: int = 3
    groups: str = "image"
    asked: list[tuple[int, int]] = field(default_factory=list)
    model: nn.Module = field(default_factory=nn.Identity)

    @property
    def class_names(self):
        return [f"class {index}" for index in range(self.num_classes)]

    def run(self, model, split, batch_size=None):
        assert split == "test"
        for places in torch.arange(len(self.labels)).split(self.batch_size):
            chosen = torch.tensor(self.experts)[places].view(-1, 1, 1)
            weights = torch.tensor(self.weights or [1.0] * len(self.labels))[places].view(-1, 1, 1)
            gates = one_hot(chosen.squeeze(-1), self.num_experts).float()
            if self.groups == "batch":
                gates, chosen, weights = (t.transpose(0, 1) for t in (gates, chosen, weights))
            routing = TokenChoiceRouting.from_choices(gates, chosen, weights, None)
            images = places.view(-1, 1, 1, 1).float()
            labels = torch.tensor(self.labels)[places]
            yield Observed(images, labels, self.answers(model, images, {}), [routing])

    def answers(self, model, images, factors):
        places = images.flatten().long()
        off = torch.zeros(len(places), dtype=torch.bool)
        if factors:
            self.asked.append((int((factors[0] == 0).nonzero()), len(images)))
            off = (factors[0] == 0)[torch.tensor(self.experts)[places]]
        classes = torch.where(
            off, torch.tensor(self.without)[places], torch.tensor(self.with_it)[places]
        )
        return one_hot(classes, self.num_classes).float()


def test_an_expert_that_decides_one_class_is_monosemantic():
    labels = [0, 1, 2, 0, 1, 2]
    got = measured(Deciders(labels, labels, labels, [1, 2, 0] * 2, 3, 3))
    assert got["polysemanticity", 0] == got["polysemanticity", None] == 0
    assert got["experts_with_effect", 0] == 1
    assert got["largest_drop", 0] == 1
    assert got["accuracy_drop", 0] == pytest.approx(1 / 3)
    assert got["accuracy_change", 0].tolist() == np.eye(3).tolist()
    assert got["expert_usage", 0].tolist() == pytest.approx([1 / 3] * 3)
    assert got["class_names", None].tolist() == ["class 0", "class 1", "class 2"]


def test_specialisation_of_experts_with_several_classes_by_hand():
    """Expert 0 serves classes 0 and 1 equally, expert 1 half of class 2 and all of class 3."""
    labels = [0, 0, 1, 1, 2, 2, 3, 3]
    experts = [0, 0, 0, 0, 1, 1, 1, 1]
    got = measured(Deciders(labels, experts, labels, [4, 4, 4, 4, 2, 4, 4, 4], 2, 5))
    assert got["accuracy_change", 0][:, :4].tolist() == [[1, 1, 0, 0], [0, 0, 0.5, 1]]
    first, second = got["expert_polysemanticity", 0]
    assert first == pytest.approx(sqrt(2 - sqrt(2)))
    # d / ‖d‖ = (1, 2) / √5, which is √((1/√5)² + (2/√5 − 1)²) from (0, 1).
    assert second == pytest.approx(sqrt(1 / 5 + (2 / sqrt(5) - 1) ** 2))
    assert got["polysemanticity", 0] == pytest.approx((first + second) / 2)
    assert got["largest_drop", 0] == 1
    assert got["accuracy_drop", 0] == pytest.approx((4 / 8 + 3 / 8) / 2)


def test_a_class_that_improves_without_the_expert_has_a_negative_entry():
    """d = (0.5, −1)."""
    got = measured(Deciders([0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 1, 1], 1, 2))
    assert got["accuracy_change", 0].tolist() == [[0.5, -1]]
    d = np.array([0.5, -1]) / sqrt(1.25)
    assert got["polysemanticity", 0] == pytest.approx(np.hypot(d[0] - 1, d[1]))


def test_an_unused_expert_needs_no_pass_and_has_no_effect():
    subject = Deciders([0, 1, 0], [2, 1, 2], [0, 0, 0], [1, 0, 1], 4, 2)
    got = measured(subject)
    assert {expert for expert, _ in subject.asked} == {1, 2}
    assert got["experts_with_effect", 0] == 1 / 4
    changes = got["accuracy_change", 0]
    assert changes.tolist() == [[0, 0], [0, 0], [1, 0], [0, 0]]
    assert np.isnan(got["expert_polysemanticity", 0]).tolist() == [True, True, False, True]
    assert got["polysemanticity", 0] == 0
    assert got["top_image_experts", 0].tolist() == [2, 1]


def test_polysemanticity_is_undefined_if_no_expert_has_an_effect():
    got = measured(Deciders([0, 1], [0, 1], [0, 0], [0, 0], 2, 2))
    assert ("polysemanticity", 0) not in got
    assert ("polysemanticity", None) not in got
    assert got["experts_with_effect", None] == got["accuracy_drop", None] == 0


def test_only_images_that_use_the_expert_are_rerun_if_groups_are_images():
    labels = [0, 1, 0, 0, 1, 1]
    apart = Deciders(labels, labels, labels, [1, 0] * 3, 2, 2)
    together = replace(apart, groups="batch", asked=[])
    changed, same = measured(apart), measured(together)
    assert apart.asked == [(0, 2), (1, 1), (0, 1), (1, 2)]
    assert together.asked == [(0, 3), (1, 3), (0, 3), (1, 3)]
    assert changed["passes", 0] == 1 / 2
    assert same["passes", 0] == 1
    assert changed["accuracy_change", 0].tolist() == same["accuracy_change", 0].tolist()


def test_whole_batches_are_rerun_if_answers_depend_on_the_batch():
    class Touchy(Deciders):
        def answers(self, model, images, factors):
            return super().answers(model, images, factors) + len(images)

    labels = [0, 1, 0, 0, 1, 1]
    subject = Touchy(labels, labels, labels, [1, 0] * 3, 2, 2)
    assert measured(subject)["passes", 0] == 1
    assert {images for _, images in subject.asked} == {3}


def test_at_most_the_requested_experts_are_switched_off_most_used_first():
    labels = [0, 1, 1, 2, 2, 2]
    subject = Deciders(labels, labels, labels, [3] * 6, 4, 4)
    got = measured(subject, max_experts=2)
    assert {expert for expert, _ in subject.asked} == {1, 2}
    assert got["experts_left_out", 0] == 2
    assert got["experts_with_effect", 0] == 1
    assert np.isnan(got["accuracy_change", 0]).all(1).tolist() == [True, False, False, True]
    assert measured(subject, max_experts=None)["experts_left_out", 0] == 0


@pytest.mark.parametrize(("groups", "asked", "passes"), [
    ("image", [(0, 2), (1, 1), (0, 1)], 4 / 14),
    ("batch", [(0, 3), (1, 3), (0, 3), (1, 3), (0, 1)], 13 / 14),
])  # fmt: skip
def test_ablation_can_be_limited_to_every_second_image(groups, asked, passes):
    labels = [0, 1, 0, 1, 0, 0, 1]
    experts = [0, 1, 0, 1, 1, 0, 0]
    subject = Deciders(labels, experts, labels, [1, 0, 1, 0, 1, 1, 0], 2, 2, groups=groups)
    got = measured(subject, every=2)
    assert subject.asked == asked
    # Images 0, 2, 4 of class 0 and 6 of class 1 are run.
    assert got["accuracy_change", 0] == pytest.approx(np.array([[2 / 3, 1], [1 / 3, 0]]))
    assert got["passes", 0] == pytest.approx(passes)
    assert got["top_image_index", 0][0].tolist() == [0, 2, 5, 6, -1, -1]


def test_a_class_without_images_has_no_value():
    got = measured(Deciders([0, 2], [0, 0], [0, 2], [1, 2], 1, 3))
    np.testing.assert_array_equal(got["accuracy_change", 0], [[1, NAN, 0]])
    assert got["polysemanticity", 0] == 0


@pytest.mark.parametrize(
    ("d", "distance"),
    [
        ([0.0, 3.0, 0.0], 0),
        ([2.0, 2.0, 2.0], sqrt(2 - 2 / sqrt(3))),
        ([-1.0, 0.0], sqrt(2)),
        ([-1.0], 2),
        ([NAN, 0.5], 0),
        ([0.0, 0.0], NAN),
        ([NAN, 0.0], NAN),
    ],
)
def test_polysemanticity_by_hand(d, distance):
    assert polysemanticity(np.array(d)) == pytest.approx(distance, nan_ok=True)


def test_the_images_with_the_highest_weight_for_an_expert_are_stored():
    subject = Deciders(
        labels=[3, 0, 1, 2, 3],
        experts=[1, 0, 1, 1, 1],
        with_it=[0] * 5,
        without=[0] * 5,
        num_experts=3,
        num_classes=4,
        weights=[0.5, 1.0, 0.25, 0.75, 0.5],
    )
    got = measured(subject, images=3)
    assert got["top_image_experts", 0].tolist() == [1, 0]
    assert got["top_image_index", 0].tolist() == [[3, 0, 4], [1, -1, -1]]
    assert got["top_image_labels", 0].tolist() == [[2, 3, 3], [0, -1, -1]]
    assert got["top_image_weights", 0].tolist() == [[0.75, 0.5, 0.5], [1, 0, 0]]
    # The only pixel of an image is its number; 0 to 4 are scaled to 0 to 255.
    pictures = got["top_images", 0]
    assert pictures.dtype == np.uint8
    assert pictures.shape == (2, 3, 1, 1, 1)
    assert pictures[..., 0, 0, 0].tolist() == [[191, 0, 255], [64, 0, 0]]
    assert got["expert_usage", 0].tolist() == pytest.approx([1 / 3, 2 / 3, 0])


def test_thumbnails_are_small_and_cover_at_most_sixteen_experts(trial):
    class Large(Deciders):
        def run(self, model, split, batch_size=None):
            for batch in super().run(model, split):
                yield replace(batch, images=batch.images.expand(-1, 3, 64, 40))

        def answers(self, model, images, factors):
            return super().answers(model, images[:, 0, 0, 0], factors)

    experts = list(range(20))
    got = measured(Large(experts, experts, experts, experts, 20, 20), images=2)
    assert got["top_images", 0].shape == (16, 2, 3, 32, 32)
    assert got["top_images", 0].max() == 255


@pytest.mark.slow
def test_results_of_real_routers_are_reproducible_at_any_batch_size(router, trial):
    first, second = measured(trial(router)), measured(trial(router))
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key])
    other = measured(trial(router, batch_size=40))
    for layer in (0, 1):
        key = ("accuracy_change", layer)
        np.testing.assert_array_equal(first[key], other[key])


def test_dense_models_have_nothing_to_switch_off(trial):
    assert build_suite("specialization").applies_to(trial("dense")) == "the model has no MoE layer"
