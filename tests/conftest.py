"""What every test shares: one thread, so that results do not depend on the machine's cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

# A slow machine is not a failing property.
hypothesis.settings.register_profile("bench", deadline=None, derandomize=True)
hypothesis.settings.load_profile("bench")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
