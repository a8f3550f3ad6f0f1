"""Dependencies between the folders point one way."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "routers": set(),
    "results": set(),
    "suites": {"routers"},
    "report": {"results"},
    "bench": {"routers", "suites", "results"},
}
FOLDERS = set(MAY_IMPORT)


def imported_folders(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_a_folder_imports_only_what_it_may(folder):
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    for file in files:
        # The commands alone know the report.
        commands = file.is_relative_to(ROOT / "bench" / "cli") or file == ROOT / "bench" / "cli.py"
        allowed = MAY_IMPORT[folder] | {folder} | ({"report"} if commands else set())
        wrong = set(imported_folders(file)) & FOLDERS - allowed
        assert not wrong, f"{file.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_what_make_setup_installs_has_the_driver_that_tests_reach_postgresql_by():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    driver = project["optional-dependencies"]["postgres"]
    assert set(driver) <= set(project["optional-dependencies"]["dev"])
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert all(f"\n{name}==" in pinned for name in ("psycopg", "psycopg-binary"))
