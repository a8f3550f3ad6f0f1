"""Processes forked from a server that has everything loaded, and no device."""

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
"""What the fork server imports, so that no worker has to: timm and torchvision take seconds."""

Parameters = ParamSpec("Parameters")
Value = TypeVar("Value")


def fork_server() -> ForkServerContext:
    """Start the server, and return the context whose processes are forked with everything loaded.

    What a terminal sends, as at Ctrl-C or when it is closed, does not reach them.
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
    """Return the same function, of a module, that works in a new process each time it is called.

    Args:
        timeout: seconds until that process is ended; None lets it take what it takes.
    """
    # Workers that load images start processes of their own, so they are no daemons. pebble reads
    # `context`; its annotations call it `mp_context`.
    process = concurrent.process(daemon=False, timeout=timeout, context=fork_server())  # type: ignore[call-overload]
    return cast(Callable[Parameters, ProcessFuture[Value]], process(function))


def how_it_ended(expired: ProcessExpired) -> str:
    """Say how a process ended that returned nothing: `was killed by SIGSEGV`."""
    code = expired.exitcode
    if code >= 0:
        return f"ended with exit status {code} and no result"
    memory = ", as the kernel does where memory runs out" if code == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{memory}"
