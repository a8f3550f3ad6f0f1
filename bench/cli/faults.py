"""Whose fault an error is: the user's, the work's, the machine's, or the bench's own."""

from __future__ import annotations

import errno
import os
import tempfile
import traceback
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import typer

REFUSED = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EPIPE),
}
"""What an operating system answers where neither the request nor the code is wrong."""


class MachineError(Exception):
    """A refusal by the operating system of what a command needs, as room on a disk."""

    exit_status = 1


class OwnFault(Exception):
    """An error of the bench itself; the message says where its traceback is kept."""

    exit_status = 1


def is_foreseen(error: Exception) -> bool:
    """Tell whether an error has a message that is meant for the user, or ends the command."""
    # What is raised on purpose has an exit status; typer's own errors have a way to be written.
    own = hasattr(error, "exit_status") or hasattr(error, "format_message")
    return own or isinstance(error, (typer.Exit, typer.Abort))


def classified(error: Exception, home: Path | None) -> Exception:
    """Return an error that has one message for the user: the error itself where it was foreseen.

    Args:
        home: the folder of everything that runs make, in whose `logs` a traceback is kept; None,
            or one that cannot be written, has it in a temporary file.
    """
    if is_foreseen(error):
        return error
    if isinstance(error, OSError) and error.errno in REFUSED:
        where = f": {error.filename}" if error.filename else ""
        return MachineError(f"the system refuses: {error.strerror}{where}")
    if isinstance(error, MemoryError):
        return MachineError("this machine has too little memory for that")
    message = " ".join(f"{type(error).__name__}: {error}".split())
    return OwnFault(
        f"this is a fault of the bench itself, not of your request: {message}; "
        f"traceback in {_kept(error, home)}; --debug prints it"
    )


def _kept(error: Exception, home: Path | None) -> Path:
    """Write a traceback into a file of its own; return the file."""
    name = f"error-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}-"
    text = "".join(traceback.format_exception(error))
    if home is not None and home.is_dir():
        with suppress(OSError):
            folder = home / "logs"
            folder.mkdir(exist_ok=True)
            return _written(text, name, folder)
    return _written(text, name, None)


def _written(text: str, name: str, folder: Path | None) -> Path:
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", prefix=name, suffix=".log", dir=folder, delete=False
    ) as file:
        file.write(text)
    return Path(file.name)
