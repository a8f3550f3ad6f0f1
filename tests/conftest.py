"""What every test shares, so that results depend on neither the machine nor the shell.

One thread, however many cores there are; and the usual signals: what a shell starts in the
background ignores Ctrl-C, and so would every process that a test starts.
"""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A slow machine is not a failing property.
hypothesis.settings.register_profile("bench", deadline=None, derandomize=True)
hypothesis.settings.load_profile("bench")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
