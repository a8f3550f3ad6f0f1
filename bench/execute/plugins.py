"""The user's plugins in worker processes: the ones that were planned, or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.execute.opened import OPENED
from bench.source_tree import combined, user_sources
from routers import load_entry_points, load_plugin
from routers.errors import BenchError


class PluginChangedError(BenchError):
    """A plugin is not what was planned any more."""


def hashes_of(plugins: Iterable[Path]) -> dict[Path, str]:
    """A hash of the source of each plugin, with the modules of the user that it imports."""
    return {
        plugin: combined(source.digest for source in user_sources([plugin]).values())
        for plugin in plugins
    }


def load_unchanged(planned: Mapping[Path, str]) -> None:
    """Register what the plugins hold, in a process that has not yet.

    Raises:
        PluginChangedError: what one makes now is another trial than was planned.
    """
    OPENED.watch()
    load_entry_points()
    for plugin in planned:
        load_plugin(plugin)
    now = hashes_of(planned)
    for plugin in planned:
        if now[plugin] != planned[plugin]:
            raise PluginChangedError(
                f"{plugin}, or a module that it imports, has changed since the run began; give the "
                "command again to run the new one"
            )
