"""What all commands share: the folder, database and plugins they work with, and how they fail."""

from __future__ import annotations

import atexit
import errno
import inspect
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from results import Store


@dataclass(frozen=True)
class CommonOptions:
    """The options that every command takes."""

    home: Annotated[
        Path,
        typer.Option(
            envvar="BENCH_HOME", metavar="FOLDER", help="The folder for everything that runs write."
        ),
    ] = Path("runs")
    db: Annotated[
        str | None,
        typer.Option(
            metavar="DATABASE",
            help="The database: a SQLite file or any SQLAlchemy URL.",
            show_default="bench.db in the home folder",
        ),
    ] = None
    plugin: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Python file that registers components; repeatable."),
    ] = None
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False
    """`main` looks for this option itself, since an error may occur before any command runs."""


@dataclass(frozen=True)
class Place:
    """The folder, database and plugins that a command works with.

    Attributes:
        home: folder for everything that runs write, absolute.
        database: path or URL of the database.
        plugins: files to load before the command does its work.
    """

    home: Path
    database: str
    plugins: tuple[Path, ...]

    @property
    def shown(self) -> str:
        """The database as messages name it: a URL without its password."""
        from results.connect import resolve

        url = "://" in self.database
        return resolve(self.database).render_as_string() if url else self.database

    def store(self, *, create: bool = False) -> Store:
        """Return the database.

        Raises:
            StoreError: it does not exist and `create` is False, or it cannot be used.
        """
        from results import open_store

        return open_store(self.database, create=create)

    def has_store(self) -> bool:
        """Tell whether there is a database to read."""
        from results.connect import resolve

        url = resolve(self.database)
        return url.get_backend_name() != "sqlite" or Path(str(url.database)).exists()

    def load(self, *, watch: bool = False) -> None:
        """Register everything: built-in components, installed plugins, the user's own files.

        Args:
            watch: whether to note the files that plugins open, so that the command can warn.

        Raises:
            RequestError: one of the user's files cannot be imported.
        """
        import bench.data
        import bench.model  # noqa: F401
        import suites  # noqa: F401
        from routers import load_entry_points, load_plugin

        if watch:
            from bench.execute import watch_opened

            watch_opened()
        for failure in load_entry_points():
            print(f"warning: {failure.message}; it is left out", file=sys.stderr)
        for plugin in self.plugins:
            load_plugin(plugin)


def command(app: typer.Typer, name: str | None = None) -> Callable[[Any], Any]:
    """Register a function as a command.

    Its first parameter is the `Place`, made from the options that every command takes. The others
    are its own arguments and options; a dataclass stands for one option per field.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        groups = {each.name: each for each in list(signature.parameters.values())[1:]}
        groups["common"] = inspect.Parameter(
            "common", inspect.Parameter.KEYWORD_ONLY, annotation=CommonOptions
        )

        def run(**options: Any) -> None:
            values: dict[str, Any] = {}
            for name, group in groups.items():
                kind = group.annotation
                if isinstance(kind, type) and is_dataclass(kind):
                    values[name] = kind(
                        **{field.name: options[field.name] for field in fields(kind)}
                    )
                else:
                    values[name] = options[name]
            common = values.pop("common")
            home = _expanded(common.home).absolute()
            database = str(home / "bench.db") if common.db is None else _database(common.db)
            try:
                plugins = tuple(map(_expanded, common.plugin or ()))
                function(Place(home, database, plugins), **values)
            except KeyboardInterrupt:
                # Python's cleanup at exit takes a moment, during which an impatient third Ctrl-C
                # would print a traceback.
                atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
                print("\ninterrupted; resume with the same command", file=sys.stderr)
                raise typer.Exit(130) from None
            except Exception as error:
                classified_error = classified(error, home)
                if classified_error is error:
                    raise
                raise classified_error from error

        options = [option for group in groups.values() for option in _options_of(group)]
        run.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
        run.__annotations__ = {option.name: option.annotation for option in options}
        run.__doc__ = function.__doc__
        app.command(name or function.__name__)(run)
        return function

    return register


def _options_of(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """Return the options that a parameter stands for: itself, or the fields of a dataclass."""
    if not is_dataclass(parameter.annotation):
        return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
    types = get_type_hints(parameter.annotation, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=types[field.name],
        )
        for field in fields(parameter.annotation)
    ]


def _database(text: str) -> str:
    """Return the path or URL of `--db`; a path may begin with `~`."""
    scheme, _, file = text.rpartition("://")
    file = file.removeprefix("/") if scheme.startswith("sqlite") else text
    if file in ("", ":memory:"):
        raise typer.BadParameter(
            f"--db {text} is in memory and would be lost at exit: name a file, as in --db my.db"
        )
    return text if "://" in text else str(_expanded(Path(text)))


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:  # no such user, or HOME is unset and the user id has no account
        raise typer.BadParameter(f"{path}: {error} Write the path in full.") from None


REFUSED = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EPIPE),
}
"""Errors of the operating system for which neither the request nor the code is to blame."""


class CommandError(Exception):
    """An error that the request did not cause: the system's refusal, or the bench's own fault."""

    exit_status = 1


def classified(error: Exception, home: Path | None) -> Exception:
    """Return an error with one message for the user: the error itself if it was foreseen.

    Args:
        home: the folder for everything that runs write; its `logs` keeps the traceback. If it is
            None or cannot be written, a temporary file keeps it.
    """
    # Errors raised on purpose have an exit status; typer's own have a method to format them.
    own = hasattr(error, "exit_status") or hasattr(error, "format_message")
    if own or isinstance(error, typer.Exit | typer.Abort):
        return error
    if isinstance(error, OSError) and error.errno in REFUSED:
        where = f": {error.filename}" if error.filename else ""
        return CommandError(f"the system refused: {error.strerror}{where}")
    if isinstance(error, MemoryError):
        return CommandError("this machine has too little memory for that")
    message = " ".join(f"{type(error).__name__}: {error}".split())
    return CommandError(
        f"this is a bug in the bench, not a mistake in your request: {message}; "
        f"traceback in {_keep_traceback(error, home)}; --debug prints it"
    )


def _keep_traceback(error: Exception, home: Path | None) -> Path:
    """Write a traceback to a new file, and return the file."""

    def written(folder: Path | None) -> Path:
        name = f"error-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}-"
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", prefix=name, suffix=".log", dir=folder, delete=False
        ) as file:
            file.write("".join(traceback.format_exception(error)))
        return Path(file.name)

    if home is not None and home.is_dir():
        with suppress(OSError):
            folder = home / "logs"
            folder.mkdir(exist_ok=True)
            return written(folder)
    return written(None)
