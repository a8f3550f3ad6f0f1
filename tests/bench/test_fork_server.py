"""Processes of the fork server are forked from it, not from the process that asks for them."""

from __future__ import annotations

import os
import sys

import pytest

from bench.execute.fork_server import forked

LOADED = {"torch", "timm", "bench.execute.worker"}


def family() -> tuple[int, int, bool]:
    """Return this process, its parent, and whether everything was loaded when it began."""
    return os.getpid(), os.getppid(), sys.modules.keys() >= LOADED


@pytest.mark.slow
def test_each_call_gets_a_process_forked_from_a_server_with_everything_loaded() -> None:
    begin = forked(family, timeout=60)
    (first, server, loaded), (second, same, _) = (begin().result() for _ in range(2))
    assert server == same
    assert loaded
    assert len({os.getpid(), server, first, second}) == 4
