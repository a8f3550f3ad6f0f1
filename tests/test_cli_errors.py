"""A wrong request gives one message on stderr with the nearest valid name, and status 2."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cli import main
from bench.data.pictures import UnreadableError
from results import StoreError
from routers import BenchError, RequestError

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("rn", "Did you mean 'run'?"),
        ("run --presett smoke", "--preset"),
        ("run --preset smok", "no preset is named 'smok'; did you mean 'smoke'"),
        ("run --preset smoke --set lr=3", "no setting 'lr'; did you mean 'train.lr'?"),
        ("run --preset smoke --set train.lr", "write it as path=value"),
        ("run --preset smoke --sweep train.lr=", "gives no value"),
        ("run --preset smoke --routers soft_mo", "did you mean 'soft_moe'"),
        ("run --preset smoke --seeds 0", "--seeds"),
        ("run balanse --preset smoke", "did you mean 'balance'"),
        ("run --preset smoke --set data.name=digit", "did you mean 'digits'"),
        ("run --preset smoke --plugin nothing.py", "plugin nothing.py does not exist"),
        ("routers soft_mo", "did you mean 'soft_moe'"),
        ("show soft_mo", "did you mean 'soft_moe'"),
        ("list dataset:digits", "there is no kind 'dataset:digits' of components"),
        ("check affinity:mlp", "there are no checks for the affinity 'mlp'"),
        ("check soft_mo", "did you mean 'soft_moe'"),
        ("check", "Missing argument"),
        ("status", "there is no database"),
        ("report", "there is no database"),
        ("why abc", "there is no database"),
        ("db info", "there is no database"),
        ("db exprot x.csv", "Did you mean 'export'?"),
    ],
)
def test_a_wrong_request_is_one_message(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = arguments.split()
    request = [command, *rest]
    if command in ("status", "report", "why", "run") or arguments == "db info":
        request += ["--home", str(tmp_path / "runs")]
    with pytest.raises(SystemExit) as exited:
        main(request)
    out, err = capsys.readouterr()
    assert exited.value.code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_a_plugin_that_cannot_be_imported_is_reported_with_the_failing_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "broken_plugin.py"
    plugin.write_text("import torch\n\nnumber = 1 / 0\n")
    with pytest.raises(SystemExit) as exited:
        main(["routers", "--plugin", str(plugin)])
    assert exited.value.code == 2
    err = capsys.readouterr().err
    assert "broken_plugin.py:3: number = 1 / 0" in err
    assert "ZeroDivisionError" in err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["routers", "soft_mo", "--debug"])
    assert "Traceback" in capsys.readouterr().err


@pytest.fixture
def planned(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Return the stderr of `plan` when reading the preset raises an error."""

    def plan(error: Exception, *options: str, status: int) -> str:
        def surprise(*_: object) -> None:
            raise error

        monkeypatch.setattr("bench.config.load_preset", surprise)
        with pytest.raises(SystemExit) as exited:
            main(["plan", *options])
        assert exited.value.code == status
        return capsys.readouterr().err

    return plan


def kept_in(message: str) -> Path:
    """Return the traceback file that a message names."""
    matched = re.fullmatch(
        "error: this is a bug in the bench, not a mistake in your request: KeyError: 'surprise'; "
        r"traceback in (\S+); --debug prints it\n",
        message,
    )
    assert matched
    return Path(matched[1])


def test_an_unexpected_error_is_logged_as_a_fault_of_the_bench(
    tmp_path: Path, planned: Callable[..., str]
) -> None:
    log = kept_in(planned(KeyError("surprise"), "--home", str(tmp_path), status=1))
    assert log.parent == tmp_path / "logs"
    assert "raise error\nKeyError: 'surprise'\n" in log.read_text()


def test_the_traceback_is_kept_elsewhere_if_the_home_cannot_be_written(
    tmp_path: Path, planned: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "logs").write_text("a file where the folder would be")
    for home in (tmp_path, tmp_path / "none"):
        log = kept_in(planned(KeyError("surprise"), "--home", str(home), status=1))
        assert log.parent == tmp_path / "tmp"
        assert "Traceback" in log.read_text()
    assert not (tmp_path / "none").exists()


def test_debug_prints_the_traceback_of_an_unexpected_error(
    tmp_path: Path, planned: Callable[..., str]
) -> None:
    printed = planned(KeyError("surprise"), "--home", str(tmp_path), "--debug", status=1)
    assert "raise error\nKeyError: 'surprise'\n" in printed
    kept_in(printed.splitlines(keepends=True)[-1])


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (BenchError("no trial left anything"), 1, "no trial left anything"),
        (RequestError("no such thing"), 2, "no such thing"),
        (StoreError("no such study"), 2, "no such study"),
        (UnreadableError(["a.png cannot be read"]), 2, "a.png cannot be read"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x"),
            1,
            "the system refused: No space left on device: runs/x",
        ),
    ],
)
def test_an_expected_error_leaves_no_traceback(
    tmp_path: Path, planned: Callable[..., str], error: Exception, status: int, message: str
) -> None:
    printed = planned(error, "--home", str(tmp_path), status=status)
    assert printed == f"error: {message}\n"
    assert list(tmp_path.iterdir()) == []


COMMANDS = [
    "run",
    "plan",
    "report",
    "status",
    "why",
    "list",
    "show",
    "routers",
    "new",
    "check",
    "doctor",
]


def test_help_needs_no_heavy_imports() -> None:
    script = f"""
import sys
from bench.cli import main
commands = [[name] for name in {COMMANDS}]
for command in [[], *commands, ["db"], ["db", "info"], ["db", "upgrade"], ["db", "export"]]:
    try:
        main([*command, "--help"])
    except SystemExit as exited:
        assert exited.code == 0, command
heavy = {{"torch", "timm", "pandas", "matplotlib", "scipy", "sqlalchemy"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for option in ("--home", "--db", "--plugin", "--debug"):
        assert done.stdout.count(f"  {option}") == len(COMMANDS) + 3
    assert done.stdout.count("Example") >= len(COMMANDS) + 3
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
