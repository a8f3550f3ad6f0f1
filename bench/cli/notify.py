"""A command of the user's that is given the digest, as one that sends a mail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile

SECONDS = 60
"""How long it may take."""


def notify(command: str, text: str) -> None:
    """Run a shell command with a text on its standard input.

    If it fails, or takes longer than `SECONDS`, a line on stderr says so: the run is over, and
    good.
    """
    # Files and no pipes: nobody waits for what the command leaves running in the background.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as complaints:
        given.write(text.encode())
        given.seek(0)
        process = subprocess.Popen(
            command, shell=True, stdin=given, stderr=complaints, start_new_session=True
        )
        try:
            status = process.wait(SECONDS)
            how = f"ended with exit status {status}" if status else ""
        except subprocess.TimeoutExpired:
            how = f"took longer than {SECONDS} s and was ended"
        finally:
            _end(process)
        complaints.seek(0)
        said = complaints.read().decode(errors="replace").split()
    if how:
        end = " ".join(said)[-200:]
        print(f"warning: --notify-command {how}{f': {end}' if end else ''}", file=sys.stderr)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and what it started, where it has not ended by itself."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
