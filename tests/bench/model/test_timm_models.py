"""Models that the bench registers beside timm's own."""

from __future__ import annotations

import pytest
import torch

from bench.config.schema import ModelConfig
from bench.model.timm_models import dense_model
from routers import RequestError

SMALL = {"img_size": 8, "patch_size": 4, "embed_dim": 6, "num_blocks": 2}


def build(**options):
    config = ModelConfig(name="mlp_mixer", options=SMALL | options)
    return dense_model(config, in_chans=1, num_classes=3, seed=0)


def test_an_mlp_mixer_of_any_size():
    mixer = build()
    assert mixer(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    # Over 4 tokens and over 6 channels; hidden widths are 0.5 and 4 times the channels.
    shapes = [tuple(p.shape) for name, p in mixer.named_parameters() if "fc1.weight" in name]
    assert shapes == [(3, 4), (24, 6)] * 2


def test_an_option_that_an_mlp_mixer_lacks_is_named():
    with pytest.raises(RequestError, match=r"'mlp_mixer' refuses.*'depth'"):
        build(depth=3)
