"""Output that cannot be shown: unencodable characters, and a pipe that nobody reads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
ASCII = {"PYTHONIOENCODING": "ascii"}
BARE_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
RUN = [
    *("run", "accuracy", "--preset", "smoke", "--routers", "dense,talks", "--seeds", "1"),
    *("--set", "train.epochs=0.1", "--jobs", "1", "--plugin", "talks.py", "--study", "s"),
]
PLUGIN = '''
from routers import Router, SoftRouting, register_router


@register_router("talks", family="soft")
class Talks(Router):
    """Écrit « ± » — à côté."""

    def allocate(self, logits):
        print("größer × kleiner")
        return SoftRouting.from_logits(logits[..., None])
'''


def started(home: Path, environment: dict[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    """Start a command in its own process, with its output read as bytes."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "bench.py"), *arguments],
        cwd=home,
        env={**os.environ, **environment, "BENCH_HOME": str(home / "runs")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def said(home: Path, environment: dict[str, str], *arguments: str) -> str:
    """Return what a command that must succeed prints in an ASCII locale."""
    process = started(home, environment, *arguments)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output.decode(errors="replace")
    return output.decode("ascii")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run was made under an ASCII locale."""
    folder = tmp_path_factory.mktemp("ascii")
    (folder / "talks.py").write_text(PLUGIN, encoding="utf-8")
    text = said(folder, ASCII | BARE_LOCALE, *RUN)
    assert "accuracy: top1 in % ?" in text
    return folder


def test_a_run_writes_its_report_and_logs_in_utf_8(home: Path) -> None:
    report = home / "runs" / "reports" / "s"
    assert "top-1 (%) ↑" in (report / "report.md").read_text(encoding="utf-8")
    assert "top-1 ↑" in (report / "index.html").read_text(encoding="utf-8")
    logs = [log.read_text(encoding="utf-8") for log in (home / "runs" / "logs").glob("*.log")]
    assert any("größer × kleiner" in log for log in logs)


@pytest.mark.parametrize(
    "arguments",
    [
        ["routers"],
        ["routers", "soft_moe"],
        ["doctor"],
        ["status", "--digest"],
    ],
    ids=" ".join,
)
def test_no_command_fails_on_a_character_without_ascii_code(
    home: Path, arguments: list[str]
) -> None:
    assert "?" in said(home, ASCII, *arguments)


def test_a_run_whose_output_nobody_reads_writes_its_report(home: Path) -> None:
    shutil.rmtree(home / "runs" / "reports")
    process = started(home, {}, *RUN)
    assert process.stdout is not None
    process.stdout.close()
    process.wait(timeout=300)
    assert (home / "runs" / "reports" / "s" / "index.html").exists()
