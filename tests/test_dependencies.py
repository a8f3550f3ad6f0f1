"""Dependencies between folders point one way, and so do those between the chapters of bench."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
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
CHAPTERS = (
    "environment",
    "config",
    "data",
    "model",
    "compute",
    "train",
    "measure",
    "check",
    "plan",
    "execute",
    "tune",
    "cli",
)
"""The chapters of bench, bottom up: each imports only from those before it."""
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for folder in FOLDERS
    for file in (ROOT / folder).rglob("*.py")
}


def imports(file: Path, *, at_import: bool = False) -> Iterator[str]:
    """Yield the modules that a file imports; with `at_import`, without those imported late.

    What is imported from a package is the module of that name, or else the package.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_a_folder_imports_only_what_it_may(folder):
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    for file in files:
        # Only the commands know the report.
        commands = file.is_relative_to(ROOT / "bench" / "cli")
        allowed = MAY_IMPORT[folder] | {folder} | ({"report"} if commands else set())
        tops = {module.partition(".")[0] for module in imports(file)}
        wrong = tops & FOLDERS - allowed
        assert not wrong, f"{file.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_every_module_of_bench_belongs_to_a_chapter():
    lying = {path.relative_to(ROOT / "bench").parts[0] for path in (ROOT / "bench").rglob("*.py")}
    assert lying == {"__init__.py", "environment.py", *CHAPTERS[1:]}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_imports_only_from_those_before_it(chapter):
    own = {name: file for name, file in MODULES.items() if chapter_of(name) == chapter}
    assert own
    below = CHAPTERS[: CHAPTERS.index(chapter)]
    for name, file in own.items():
        for imported in imports(file):
            other = chapter_of(imported)
            assert other in (None, chapter, *below), f"{name} imports {imported}"


def test_a_chapter_is_imported_as_a_whole():
    late = {"bench.model.timm_models"}  # imports timm, which takes seconds
    late |= {"bench.data.fashion_mnist_mini"}  # a package of data files
    for name, file in MODULES.items():
        for imported in set(imports(file)) - late:
            other = chapter_of(imported)
            inside = other == chapter_of(name) or other in (None, "environment")
            assert inside or imported == f"bench.{other}", f"{name} imports {imported}"


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_there_are_no_circular_imports(folder):
    graph = {
        name: {each for each in imports(file, at_import=True) if each in MODULES and each != name}
        for name, file in MODULES.items()
        if name.partition(".")[0] == folder
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def chapter_of(module: str) -> str | None:
    """Return the chapter of bench that a module belongs to."""
    top, _, rest = module.partition(".")
    return rest.partition(".")[0] or None if top == "bench" else None


def test_make_setup_installs_the_postgresql_driver_that_the_tests_need():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    driver = project["optional-dependencies"]["postgres"]
    assert set(driver) <= set(project["optional-dependencies"]["dev"])
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert all(f"\n{name}==" in pinned for name in ("psycopg", "psycopg-binary"))
