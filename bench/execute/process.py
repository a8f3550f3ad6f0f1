"""What a process of the fork server does before its work, whatever that is."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Mapping
from multiprocessing import connection
from pathlib import Path

import torch

from bench.execute.devices import show_only
from bench.execute.logs import log_to
from bench.execute.plugins import load_unchanged
from bench.execute.workplace import prepare_process


def begin_process(log: Path, device: str, plugins: Mapping[Path, str]) -> torch.device:
    """Set this process up; it ends with the one that asked for it.

    Args:
        log: where its output goes.
        device: the one that it may see.
        plugins: as `load_unchanged` takes them.

    Returns:
        The device, as this process sees it.

    Raises:
        PluginChangedError: see `load_unchanged`.
    """
    threading.Thread(target=_die_with_parent, daemon=True).start()
    log_to(log)
    own = show_only(device)
    prepare_process()
    load_unchanged(plugins)
    return own


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
