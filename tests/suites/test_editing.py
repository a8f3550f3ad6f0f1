from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from routers import BenchError, MixtureRouting, build_router
from suites import Metric, Observed, build_suite
from suites.editing import Subgroups, subgroups_of

SIGN = torch.tensor([-1.0, 1.0])


def measured(subject, **options):
    results = {}
    for result in build_suite("editing", **options).measure(subject):
        value = result.value if isinstance(result, Metric) else result.values
        results[(result.name, *result.where.values())] = value
        if result.name == "expert_factors":
            results[result.name, result.layer] = value
    return results


@dataclass
class Marked:
    """Two classes and a mark. An image is its class and its mark, each as −1 or 1.

    The logits are (−z, z), where z is `answer` of (class, mark, factors (E,)); the gates weigh
    the experts equally, unless `gates` (E,) says otherwise. `counts` has the number of images of
    each subgroup, (class, mark), of a split.
    """

    answer: Callable[[Tensor, Tensor, Tensor], Tensor]
    num_experts: int = 2
    gates: list[float] | None = None
    counts: dict[str, list[int]] = field(
        default_factory=lambda: {"val": [9, 2, 2, 9], "test": [3, 7, 7, 3]}
    )
    wrong: tuple[str, ...] = ()
    batch_size: int = 5
    asked: list[str] = field(default_factory=list)
    edits: list[list[float]] = field(default_factory=list)
    num_classes: int = 2
    class_names = ("shirt", "coat")
    attribute_names = ("plain", "marked")

    @property
    def model(self):
        return nn.ModuleList([build_router("softmax_mixture", dim=1, num_experts=2, tokens=1)])

    def table(self, split):
        """Return class and mark of every image, (n, 2)."""
        subgroups = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
        return subgroups.repeat_interleave(torch.tensor(self.counts[split]), 0)

    def attribute(self, split):
        return self.table(split)[:, 1]

    def run(self, model, split, batch_size=None):
        self.asked.append(split)
        for rows in self.table(split).split(self.batch_size):
            gates = torch.tensor(self.gates or [1.0] * self.num_experts)
            routing = MixtureRouting((gates / gates.sum()).expand(len(rows), 1, -1))
            labels = 1 - rows[:, 0] if split in self.wrong else rows[:, 0]
            yield Observed(rows, labels, self.logits(rows, torch.ones(self.num_experts)), [routing])

    def answers(self, model, images, factors):
        self.edits.append(factors[0].tolist())
        return self.logits(images, factors[0])

    def logits(self, rows, factors):
        z = self.answer(SIGN[rows[:, 0]], SIGN[rows[:, 1]], factors)
        return torch.stack([-z, z], 1)


def shortcut(label, mark, factors):
    """Answer by expert 0, which sees the class, and expert 1, which sees the mark and dominates."""
    return factors[0] * label + 2 * factors[1] * mark


def test_switching_off_the_biased_expert_restores_fairness():
    got = measured(Marked(shortcut), factors=(0.0,))
    assert got["subgroup_accuracy", "before"].tolist() == [[1, 0], [0, 1]]
    assert got["subgroup_accuracy", "after"].tolist() == [[1, 1], [1, 1]]
    assert got["expert_factors", 0].tolist() == [1, 0]
    assert got["edited_experts",] == 1
    before = {name: got[name, "before"] for name, *edit in got if edit == ["before"]}
    del before["subgroup_accuracy"]
    assert before == {
        "subgroup_accuracy_min": 0,
        "subgroup_accuracy_mean": 0.5,
        "bias_std": 0.5,
        "opportunity_gap": 1,
        "editing_top1": pytest.approx(6 / 20),
    }
    assert [got[name, "after"] for name in before] == [1, 1, 0, 0, 1]
    assert got["subgroup_names",].tolist() == [
        ["shirt, plain", "shirt, marked"],
        ["coat, plain", "coat, marked"],
    ]
    # No edit, two experts, and the same two again, which shows that this is the best.
    assert got["editing_passes",] == 5


def test_the_biased_expert_is_edited_first_and_the_other_is_amplified():
    subject = Marked(shortcut)
    factors = measured(subject, max_edits=3)["expert_factors", 0]
    assert factors.tolist() == [4, 0]


def test_nothing_is_edited_if_no_edit_helps():
    got = measured(Marked(lambda label, mark, factors: mark))
    assert got["expert_factors", 0].tolist() == [1, 1]
    assert got["edited_experts",] == 0
    for name in ("subgroup_accuracy", "subgroup_accuracy_min", "bias_std", "editing_top1"):
        assert np.array_equal(got[name, "before"], got[name, "after"])


def test_an_edit_that_gains_less_than_the_noise_is_not_made():
    def hardly(label, mark, factors):
        return 1e-4 * factors[0] * label

    assert measured(Marked(hardly))["edited_experts",] == 0


def test_two_edits_of_one_expert_multiply_their_factors():
    def small(label, mark, factors):
        return 0.2 * factors[0] * label + mark

    got = measured(Marked(small, num_experts=1), factors=(2.0,), max_edits=3)
    assert got["expert_factors", 0].tolist() == [8]
    assert got["edited_experts",] == 1
    assert got["subgroup_accuracy_min", "after"] == 1


@pytest.mark.parametrize("poison", ["labels", "marks", "images"])
def test_edits_are_chosen_without_using_the_test_split(poison):
    clean = Marked(shortcut)
    poisoned = {
        "labels": replace(clean, wrong=("test",), asked=[], edits=[]),
        "marks": replace(clean, counts=clean.counts | {"test": [7, 3, 3, 7]}, asked=[], edits=[]),
        "images": replace(clean, counts=clean.counts | {"test": [1, 1, 1, 1]}, asked=[], edits=[]),
    }[poison]
    first, second = measured(clean), measured(poisoned)
    assert first["expert_factors", 0].tolist() == second["expert_factors", 0].tolist()
    assert first["editing_passes",] == second["editing_passes",]
    for subject in (clean, poisoned):
        assert [subject.asked[0], subject.asked[-1]] == ["test", "test"]
        assert set(subject.asked[1:-1]) == {"val"}


def test_edits_follow_the_validation_split():
    misled = replace(Marked(shortcut), wrong=("val",))
    assert measured(misled)["expert_factors", 0].tolist() != [1, 0]
    assert measured(misled)["subgroup_accuracy_min", "after"] == 0


def test_only_the_most_used_experts_are_tried():
    def last(label, mark, factors):
        return factors[3] * label

    subject = Marked(last, num_experts=4, gates=[0.3, 0.4, 0.2, 0.1])
    measured(subject, max_experts=2, factors=(0.0,))
    assert {tuple(edit) for edit in subject.edits} == {(0, 1, 1, 1), (1, 0, 1, 1)}


def test_after_the_first_step_only_the_best_experts_are_tried():
    def ranked(label, mark, factors):
        return (factors * torch.tensor([0.1, 0.4, 0.2, 0.3])).sum() * label

    subject = Marked(ranked, num_experts=4)
    measured(subject, shortlist=2, factors=(2.0,), max_edits=3)
    tried = {tuple(edit) for edit in subject.edits}
    singles = {tuple(1 + (np.arange(4) == expert)) for expert in range(4)}
    assert singles <= tried
    assert {tuple(edit[[0, 2]]) for edit in map(np.array, tried - singles)} == {(1, 1)}


def test_all_edits_of_a_step_share_one_pass_over_the_images():
    subject = Marked(shortcut)
    got = measured(subject, factors=(0.0,))
    # The test split twice; one pass each for the use of experts and for no edit; two steps.
    assert len(subject.asked) == 2 + 4
    assert got["editing_passes",] == 5


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_results_do_not_depend_on_the_batch_size(batch_size):
    usual, other = measured(Marked(shortcut)), measured(Marked(shortcut, batch_size=batch_size))
    assert usual.keys() == other.keys()
    for key, value in usual.items():
        assert np.array_equal(value, other[key]), key


@pytest.mark.slow
def test_edits_of_real_routers_are_reproducible_and_never_harmful(router, trial):
    options = {"max_edits": 2, "shortlist": 3, "factors": (0.0, 2.0)}
    first, second = (measured(trial(router), **options) for _ in range(2))
    assert all(np.array_equal(value, second[key]) for key, value in first.items())
    # The fake trial's splits are equal, so gains on validation images are gains on test images.
    subject = trial(router)
    factors = tuple(torch.tensor(first["expert_factors", layer]) for layer in (0, 1))
    before, after = subgroups_of(subject, "val", [(), factors])
    assert after.worst_loss <= before.worst_loss
    assert (after.worst_loss < before.worst_loss) is (first["edited_experts",] > 0)


def test_the_accuracy_before_is_that_of_the_suite_accuracy(trial):
    subject = trial("soft_moe")
    (top1,) = [m for m in build_suite("accuracy").measure(subject) if m.name == "top1"]
    assert measured(subject)["editing_top1", "before"] == pytest.approx(top1.value)


def test_a_dense_model_only_has_values_before_editing(trial):
    subject = trial("dense")
    assert build_suite("editing").applies_to(subject) is None
    got = measured(subject)
    assert ("subgroup_accuracy_min", "before") in got
    assert not any("after" in key or key[0] == "edited_experts" for key in got)


def test_data_without_a_protected_attribute_are_skipped_with_the_reason(trial):
    subject = trial("soft_moe", attribute_names=())
    reason = build_suite("editing").applies_to(subject)
    assert reason == "the data set has no protected attribute"
    with pytest.raises(BenchError, match="the test split has no protected attribute"):
        subgroups_of(subject, "test", [()])


def tally(accuracies, images=10):
    table = Subgroups(len(accuracies), len(accuracies[0]))
    table.images += images
    table.right += images * torch.tensor(accuracies, dtype=torch.double)
    return table


@pytest.mark.parametrize(
    ("accuracies", "gap"),
    [
        ([[0.1, 0.9], [0.8, 0.5]], 0.3),
        ([[0.1, 0.9], [0.5, 0.8]], 0.3),
        ([[0.5, 0.5, 0.5], [0.2, 0.9, 0.4]], 0.7),
        ([[0.1, 0.9], [0.8, 0.5], [0.2, 0.2]], 0.8),
    ],
)
def test_equality_of_opportunity_by_hand(accuracies, gap):
    assert tally(accuracies).opportunity_gap == pytest.approx(gap)


def test_subgroup_counts_equal_those_of_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 3, generator=generator)
    labels, values = torch.arange(60) % 3, torch.arange(60) // 7 % 2
    table = Subgroups(3, 2)
    for part in torch.arange(60).split(16):
        table.add(logits[part], labels[part], values[part])
    for label in range(3):
        for value in range(2):
            chosen = (labels == label) & (values == value)
            right = (logits[chosen].argmax(1) == label).double().mean()
            loss = -logits[chosen].double().log_softmax(1)[:, label].mean()
            assert table.accuracy[label, value] == pytest.approx(float(right))
            mean = table.loss[label, value] / table.images[label, value]
            assert float(mean) == pytest.approx(float(loss))
    assert table.top1 == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    assert table.worst_loss == pytest.approx(float((table.loss / table.images).max()))


def test_a_subgroup_without_images_does_not_count_as_the_worst():
    table = Subgroups(2, 2)
    table.add(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), torch.tensor([1]))
    assert table.worst_loss == pytest.approx(float(np.log1p(np.exp(-2))))
