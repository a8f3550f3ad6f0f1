from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from timm.models.mlp_mixer import MlpMixer

from bench.model import moefy
from routers import MixtureRouting
from suites import Array, Observed, build_suite
from suites.support.known_answers import ROUTINGS, KnownSubject
from suites.traces import Grid, grid_of, thumbnails
from tests.suites.conftest import EACH_KIND, FakeTrial

GRID = (4, 3)
"""The grid that the twelve tokens of the subjects' images are taken to form."""


def measured(subject, **options):
    results = build_suite("traces", **options).measure(subject)
    return {
        (r.name, r.layer, r.step): r.values if isinstance(r, Array) else r.value for r in results
    }


def on_grid(subject, grid=GRID):
    for model in (subject.model, *(snapshot.model for snapshot in subject.snapshots)):
        model.grid_size = grid
    return subject


class Sampled(KnownSubject):
    """A known routing of a selection of images, in one batch."""

    def labels_of(self, split):
        return self.case.labels

    def run(self, model, split, batch_size=None, places=None):
        labels = self.case.labels[places]
        images = labels.view(-1, 1, 1, 1).float()
        yield Observed(images, labels, images, [self.case.route(labels)] * 2)


def known(name, grid=(2, 4)):
    subject = Sampled(next(case for case in ROUTINGS if case.name == name))
    subject.model.grid_size = grid
    return subject


def materialised(subject, model, places):
    """Return combine weights of images, (n, tokens, E) per layer, by definition."""
    (batch,) = subject.run(model, "test", 40, places=torch.from_numpy(places))
    tensors = [each.combine_tensor().sum(-1).abs() for each in batch.routings]
    return [each.reshape(len(places), -1, each.shape[-1]).numpy() for each in tensors]


@pytest.mark.parametrize("kind", sorted(EACH_KIND))
def test_patches_have_the_expert_and_share_of_the_materialised_combine_tensor(trial, kind):
    subject = on_grid(trial(kind))
    got = measured(subject)
    index = got["traced_index", None, None]
    first, last = subject.snapshots
    for model, step in ((subject.model, None), (first.model, first.step)):
        for layer, weights in enumerate(materialised(subject, model, index)):
            experts = got["traced_experts", layer, step]
            shares = got["traced_shares", layer, step]
            assert experts.dtype == np.int16
            assert shares.dtype == np.uint8
            assert experts.shape == shares.shape == (len(index), *GRID)
            for image, row, column in np.ndindex(experts.shape):
                own = weights[image, row * GRID[1] + column].astype(np.float64)
                expert, share = experts[image, row, column], shares[image, row, column]
                if own.sum() == 0:
                    assert (expert, share) == (-1, 0)
                else:
                    assert own[expert] == own.max()
                    assert not (own[:expert] == own.max()).any()
                    assert abs(share / 255 - own.max() / own.sum()) <= 0.5 / 255 + 1e-9
            totals = got["traced_weights", layer, step]
            np.testing.assert_allclose(totals, weights.sum(1), rtol=1e-5)
    assert ("traced_experts", 0, last.step) not in got, "the last snapshot is the end"


def test_patches_left_out_by_expert_choice_or_dropped_by_token_choice_are_marked(trial):
    for router in ("softmax_expert_choice", "softmax_token_choice"):
        got = measured(on_grid(trial(router)))
        experts = got["traced_experts", 0, None]
        assert (experts == -1).any()
        assert (experts >= 0).any()
        assert got["without_expert", 0, None] == (experts == -1).mean()


def test_a_full_expert_drops_the_rest_by_hand():
    """Two images of 8 tokens share 4 slots of expert 0; the first image's upper row takes all."""
    got = measured(known("collapsed"))
    assert got["traced_index", None, None].tolist() == [
        *(0, 8, 1, 9, 2, 10, 3, 11),
        *(4, 12, 5, 13, 6, 14, 7, 15),
    ]
    assert got["traced_labels", None, None].tolist() == sorted([*range(8), *range(8)])
    experts, shares = got["traced_experts", 1, None], got["traced_shares", 1, None]
    upper = [[0, 0, 0, 0], [-1, -1, -1, -1]]
    for image, (own, share) in enumerate(zip(experts, shares, strict=True)):
        assert own.tolist() == (upper if image % 2 == 0 else [[-1] * 4] * 2)
        assert share.tolist() == (255 * (own == 0)).tolist()
    assert got["traced_weights", 1, None][0].tolist() == [4, 0, 0, 0]
    assert got["traced_weights", 1, None][1].tolist() == [0, 0, 0, 0]
    assert got["top_share", None, None] == 1 / 4
    assert got["without_expert", None, None] == 3 / 4


def test_a_mixture_by_hand():
    """Weights 0.2 and 0.8; equal ones, of which the first counts; -0.75 and 0.25, by magnitude."""
    gates = torch.tensor([[[0.2, 0.8], [0.5, 0.5], [0.0, 0.0], [-0.75, 0.25]]])
    subject = known("oracle", (2, 2))
    case = replace(
        subject.case, route=lambda labels: MixtureRouting(gates.repeat(len(labels), 1, 1))
    )
    subject.case = case
    got = measured(subject, images=1, classes=1)
    assert got["traced_experts", 0, None].tolist() == [[[1, 0], [-1, 0]]]
    assert got["traced_shares", 0, None].tolist() == [[[204, 128], [0, 191]]]
    assert got["traced_weights", 0, None][0] == pytest.approx([1.45, 1.55])
    assert got["top_share", 0, None] == pytest.approx((0.8 + 0.5 + 0 + 0.75) / 4)


def test_all_routers_and_seeds_show_the_same_images_at_any_batch_size(trial):
    one = measured(on_grid(trial("soft_moe")))
    other = measured(on_grid(trial("softmax_token_choice", batch_size=7)))
    for name in ("traced_images", "traced_labels", "traced_index"):
        np.testing.assert_array_equal(one[name, None, None], other[name, None, None])
    labels = trial("soft_moe").labels.tolist()
    expected = [
        place
        for label in range(7)
        for place in [p for p, own in enumerate(labels) if own == label][:2]
    ]
    assert one["traced_index", None, None].tolist() == expected
    few = measured(on_grid(trial("soft_moe")), images=1, classes=3)
    assert few["traced_labels", None, None].tolist() == [0, 1, 2]


def test_only_the_sample_is_run(trial):
    subject = on_grid(trial("soft_moe", labels=torch.arange(40) % 7 % 6))  # class 6 has no image
    got = measured(subject)
    assert got["traced_labels", None, None].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert subject.asked == [("test", 12)] * 2, "of the end and one snapshot"


def test_tokens_outside_a_grid_are_counted_but_not_traced(trial):
    got = measured(trial("soft_moe"))
    assert not any(name == "traced_experts" for name, _, _ in got)
    assert 1 / 4 <= got["top_share", None, None] <= 1


@pytest.mark.parametrize(
    ("snapshots", "steps"),
    [(0, []), (1, [0]), (2, [0, 20]), (4, [0, 10, 20, 30]), (9, [0, 10, 20, 30])],
)
def test_snapshots_are_spaced_evenly_from_the_start(trial, snapshots, steps):
    subject = on_grid(trial("soft_moe"))
    (first, _) = subject.snapshots
    subject.snapshots = [replace(first, step=step) for step in (0, 10, 20, 30, 40)]
    got = measured(subject, snapshots=snapshots)
    assert [s for name, layer, s in got if (name, layer) == ("traced_experts", 0)] == [None, *steps]


SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.mark.parametrize(
    ("name", "options", "tokens", "grid"),
    [
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, **SMALL}, 17, Grid(1, 4, 4)),
        (
            "vit_tiny_patch16_224",
            {"img_size": (16, 32), "patch_size": 8, "reg_tokens": 4, **SMALL},
            13,
            Grid(5, 2, 4),
        ),
        (
            "vit_tiny_patch16_224",
            {"img_size": 32, "patch_size": 8, "class_token": False, "global_pool": "avg", **SMALL},
            16,
            Grid(0, 4, 4),
        ),
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, **SMALL}, 16, None),
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, **SMALL}, 1, Grid(0, 1, 1)),
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (4, 4, 4, 4)}, 49, Grid(0, 7, 7)),
    ],
)
def test_patch_grids_match_the_patch_embedding_of_timm(name, options, tokens, grid):
    model = timm.create_model(name, **options)
    size = options.get("img_size", 224)
    size = torch.Size(size if isinstance(size, tuple) else (size, size))
    assert grid_of(model, tokens, size) == grid


def test_channels_routed_as_tokens_are_not_taken_for_patches():
    """An MLP-Mixer with as many channels as patches, whose first network mixes channels."""
    model = MlpMixer(2, img_size=32, patch_size=8, embed_dim=16, num_blocks=1)
    model = moefy(model, num_experts=4, layers="every_mlp", input_size=(3, 32, 32), seed=0).eval()
    torch.manual_seed(0)
    subject = FakeTrial(model, torch.randn(4, 3, 32, 32), torch.arange(4) % 2, num_classes=2)
    got = measured(subject)
    assert [layer for name, layer, _ in got if name == "traced_experts"] == [1]
    assert got["traced_experts", 1, None].shape == (4, 4, 4)
    assert ("top_share", 0, None) in got


def test_each_channel_of_a_thumbnail_uses_the_full_range_of_brightness():
    images = torch.tensor([[[[0.0, 1.0], [2.0, 4.0]], [[-1.0, -1.0], [-1.0, -0.5]]]])
    assert thumbnails(images).tolist() == [[[[0, 64], [128, 255]], [[0, 0], [0, 255]]]]
    assert thumbnails(torch.zeros(3, 1, 5, 5)).max() == 0
    assert thumbnails(torch.rand(2, 3, 64, 32)).shape == (2, 3, 32, 16)


def test_dense_models_have_nothing_to_trace(trial):
    assert build_suite("traces").applies_to(trial("dense")) == "the model has no MoE layer"
