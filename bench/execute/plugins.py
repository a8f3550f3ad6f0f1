"""The user's plugins in worker processes, where they must be unchanged, and the files they open."""

import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import source_from_cache
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from bench.model import is_installed
from bench.plan import combined, is_own, user_sources
from routers import load_entry_points, load_plugin
from routers.errors import BenchError

SYSTEM_FOLDERS = ("/proc", "/sys", "/dev")


OPENED: set[str] = set()
"""Absolute paths of the files that plugins opened for reading, in this process and in workers."""


@cache
def watch_opened() -> None:
    """Start recording the files that plugins open; to be called before plugins are imported.

    Later calls do nothing, since an audit hook cannot be removed.
    """
    sys.addaudithook(_on_audit_event)


def opened_uncovered(plugins: Sequence[Path], home: Path) -> list[Path]:
    """Return the files that plugins opened and that no fingerprint covers.

    Args:
        plugins: the user's files; they and the modules that they import are covered.
        home: the folder for everything that runs write.
    """
    covered = user_sources(plugins)
    temporary = Path(tempfile.gettempdir()).resolve()
    folders = {plugin.resolve().parent for plugin in plugins} - {temporary}
    made = [home.resolve(), *map(Path, SYSTEM_FOLDERS)]
    unknown = []
    for file in sorted({_source(Path(name)).resolve() for name in OPENED}):
        in_passing = any(map(file.is_relative_to, made)) or (
            file.is_relative_to(temporary) and not any(map(file.is_relative_to, folders))
        )
        known = in_passing or file in covered or _kind(str(file)) != "plugin"
        if not known and file.is_file():
            unknown.append(file)
    return unknown


def _on_audit_event(event: str, arguments: tuple[Any, ...]) -> None:
    """Record a file that a plugin opens for reading. Python calls this at each audit event."""
    if event != "open":
        return
    path, _, flags = arguments
    if not isinstance(path, (str, bytes)) or not isinstance(flags, int):
        return  # a file that is open already
    writes = flags & (os.O_WRONLY | os.O_TRUNC | os.O_EXCL)
    if not writes and _by_plugin(sys._getframe(1)):
        OPENED.add(os.path.abspath(os.fsdecode(path)))


def _by_plugin(frame: FrameType | None) -> bool:
    """Tell whether a file is opened by a plugin's code that the bench called.

    Files that a library reads while it is imported, or that the bench reads for a plugin, do not
    count.
    """
    plugin = False
    while frame is not None:
        kind = _kind(frame.f_code.co_filename)
        if kind == "bench":
            return plugin
        if kind == "plugin":
            plugin = True
        elif not plugin and frame.f_code.co_name == "<module>":
            return False
        frame = frame.f_back
    return False


@cache
def _kind(name: str) -> Literal["bench", "plugin", "library"]:
    """Return whose file this is."""
    file = Path(name)
    if is_own(file):
        return "bench"
    return "library" if not file.is_absolute() or is_installed(file) else "plugin"


def _source(file: Path) -> Path:
    """Return the source file of a `.pyc` file; any other file is returned unchanged."""
    with suppress(ValueError):  # the name is not one that Python gives
        return Path(source_from_cache(file)) if file.suffix == ".pyc" else file
    return file


class PluginChangedError(BenchError):
    """A plugin that has changed since it was planned."""


def hashes_of(plugins: Iterable[Path]) -> dict[Path, str]:
    """Return a hash of the source of each plugin and of the user's modules that it imports."""
    return {
        plugin: combined(source.digest for source in user_sources([plugin]).values())
        for plugin in plugins
    }


def load_unchanged(planned: Mapping[Path, str]) -> None:
    """Register the components of the plugins in a new process.

    Raises:
        PluginChangedError: a plugin has changed, so that the trial is not the one that was planned.
    """
    watch_opened()
    load_entry_points()
    for plugin in planned:
        load_plugin(plugin)
    now = hashes_of(planned)
    for plugin in planned:
        if now[plugin] != planned[plugin]:
            raise PluginChangedError(
                f"{plugin}, or a module that it imports, has changed since the run began; run the "
                "command again to use the new version"
            )
