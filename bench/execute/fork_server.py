"""Processes forked from a server that has loaded everything and uses no device."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import ParamSpec, TypeVar, cast

from pebble import ProcessExpired, ProcessFuture, concurrent

from moe_router_bench import FOLDER

PRELOADED = (
    "moe_router_bench",
    "bench.execute.worker",
    "bench.model.timm_models",
    "results.migrate",
    "suites",
)
"""Modules that the fork server imports for all workers: timm and torchvision take seconds."""

Parameters = ParamSpec("Parameters")
Value = TypeVar("Value")


def fork_server() -> ForkServerContext:
    """Start the server, and return the context whose processes are forked with everything loaded.

    The terminal's signals, sent at Ctrl-C or when it is closed, do not reach these processes.
    """
    context = multiprocessing.get_context("forkserver")
    # The server looks in the current folder first, where a user may have a `bench.py`.
    context.set_forkserver_preload(list(PRELOADED))
    path = os.environ.get("PYTHONPATH")
    # The server does not get this process's `sys.path` (python/cpython#126631).
    os.environ["PYTHONPATH"] = os.pathsep.join([FOLDER, *sys.path[1:]])
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path
    return context


def forked(
    function: Callable[Parameters, Value], timeout: float | None
) -> Callable[Parameters, ProcessFuture[Value]]:
    """Return a version of a module's function that runs in a new process at each call.

    Args:
        timeout: seconds after which that process is ended; None for no limit.
    """
    # Workers that load images start processes of their own, so they must not be daemons. pebble
    # reads `context`; its annotations call it `mp_context`.
    process = concurrent.process(daemon=False, timeout=timeout, context=fork_server())  # type: ignore[call-overload]
    return cast(Callable[Parameters, ProcessFuture[Value]], process(function))


def how_it_ended(expired: ProcessExpired) -> str:
    """Describe how a process without a result ended: `was killed by SIGSEGV`."""
    code = expired.exitcode
    if code >= 0:
        return f"ended with exit status {code} and no result"
    memory = ", as the kernel does when memory runs out" if code == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{memory}"
