"""The packages of the bench take precedence over a user's modules of the same names."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moe_router_bench import PACKAGES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
IMPORTED = (
    "[__import__('importlib.util').util.find_spec(name).origin for name in {names}], "
    "'timm' in __import__('sys').modules"
)
SCRIPT = """
from moe_router_bench import main
from bench.execute.fork_server import forked

if __name__ == "__main__":
    found = {found!r}
    print([eval(found), forked(eval, 60)(found).result()])
"""


@pytest.fixture(params=["modules", "packages"])
def shadows(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder that contains a module or package named like each of the bench's."""
    for name in PACKAGES:
        file = tmp_path / (f"{name}.py" if request.param == "modules" else f"{name}/__init__.py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"raise SystemExit('the {name} of a user')")
    return tmp_path


def python(folder: Path, *arguments: str | Path) -> str:
    """Return what Python prints when started in a folder that is also first on PYTHONPATH."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_worker_imports_the_benchs_own_packages(shadows: Path) -> None:
    script = SCRIPT.format(found=IMPORTED.format(names=PACKAGES))
    own = [str(ROOT / name / "__init__.py") for name in PACKAGES]
    here, worker = ast.literal_eval(python(shadows, "-c", script))
    assert here == (own, False)
    assert worker == (own, True)  # with everything loaded before it started


@pytest.mark.parametrize(
    ("start", "shadows"),
    [(("-m", "moe_router_bench"), "modules"), ((ROOT / "bench.py",), "packages")],
    indirect=["shadows"],
)
def test_a_command_imports_the_benchs_own_packages(
    start: tuple[str | Path, ...], shadows: Path
) -> None:
    assert "soft_moe" in python(shadows, *start, "routers", "soft_moe")
