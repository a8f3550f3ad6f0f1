"""Ctrl-C, for real: what was finished stays, what was not is not done, and the run can go on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import main

ROOT = Path(__file__).parent.parent
RUN = [
    *("run", "balance", "--preset", "smoke", "--routers", "random,dense", "--no-report"),
    *("--set", "train.batch_size=4"),
]


def test_ctrl_c_marks_nothing_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = ["--home", str(tmp_path / "runs")]
    epochs = ["--set", "train.epochs=10000"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "bench.py"), *RUN, *home, *epochs, "--debug"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "training" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the same command takes it up again" in err
    with pytest.raises(SystemExit):
        main(["status", *home])
    output = capsys.readouterr().out
    assert "1 waiting" in output
    assert "failed: interrupted" in output
    assert "done" not in output
