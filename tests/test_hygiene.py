"""Tracked files are small, names are the field's own, and the citation matches the package."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
MEGABYTE = 10**6
LARGE = {Path("bench/data/fashion_mnist_mini/images.npz")}
"""Data that ship with the bench."""
METAPHORS = {
    *("agenda", "anew", "beside", "course", "crew", "desk", "dismiss", "errand", "errands"),
    *("found", "given", "halving", "handed", "hands", "hear", "journal", "looks", "stretch"),
    *("survey", "tell", "told", "twin", "twins", "words"),
}
"""Words that the code once used instead of the field's terms, or for anything at all: no
identifier may contain one."""
STORED = {
    ("bench/config/schema.py", "found"): "a key of the descriptions in every database",
    ("bench/config/schema.py", "twin"): "a key of the descriptions in every database",
    ("bench/config/presets.py", "twins"): "a key of the requests in every database",
}
"""Identifiers that contain one nevertheless, with the reason: renaming would orphan results."""
SHARED_BY_TOPICS = {"found", "words"}
"""Words that modules of `report` outside its topics may still use."""
PRIVATE = re.compile(r"\b(agenda|anew|crew|desk|errands?|surroundings)\b", re.IGNORECASE)
"""The words that no text of this project needs in their plain sense."""
TEXTS = {".css", ".html", ".jinja", ".js", ".md", ".py", ".toml", ".yaml"}
SENTENCES = "test_"
"""The prefix of test names, which are sentences and so may contain any word."""


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [Path(name) for name in listed.stdout.split("\0") if name]


def test_no_tracked_file_is_over_a_megabyte():
    files = tracked()
    large = {file for file in files if (ROOT / file).is_file() and size(file) > MEGABYTE}
    assert len(files) > 100
    assert large == LARGE


def test_no_source_file_is_over_300_lines():
    sources = [file for file in tracked() if file.suffix == ".py" and file.parts[0] != "tests"]
    lines = {str(file): (ROOT / file).read_text(encoding="utf-8").count("\n") for file in sources}
    assert len(lines) > 100
    assert {file: count for file, count in lines.items() if count > 300} == {}


def size(file: Path) -> int:
    return (ROOT / file).stat().st_size


def test_the_citation_is_complete_and_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["authors"] == [{"name": "The MoE router bench developers"}]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]["text"]


def test_no_identifier_uses_a_private_metaphor():
    sources = [file for file in tracked() if file.suffix == ".py" and (ROOT / file).is_file()]
    private = {
        (str(file), name)
        for file in sources
        for name in (file.stem, *defined_in(ast.parse((ROOT / file).read_text(encoding="utf-8"))))
        if not name.startswith(SENTENCES) and forbidden_in(file) & split_name(name)
    }
    assert len(sources) > 200
    assert private == STORED.keys()


def forbidden_in(file: Path) -> set[str]:
    shared = file.parts[0] == "report" and "topics" not in file.parts
    return METAPHORS - SHARED_BY_TOPICS if shared else METAPHORS


def test_no_text_uses_a_private_metaphor():
    texts = [
        file
        for file in tracked()
        if file.suffix in TEXTS and (ROOT / file).is_file() and file.parts[0] != "tests"
    ]
    private = {
        f"{file}:{number}: {line.strip()}"
        for file in texts
        for number, line in enumerate((ROOT / file).read_text("utf-8").splitlines(), 1)
        if PRIVATE.search(line)
    }
    assert len(texts) > 200
    assert not private


@pytest.mark.parametrize(
    "source",
    [
        "def tell(text): ...",
        "class CrewOfWorkers: ...",
        "def run(errands): ...",
        "self._desk = 1",
        "for hands in (): ...",
        "import queue as desk",
    ],
)
def test_private_metaphors_are_found_in_every_kind_of_definition(source):
    assert any(METAPHORS & split_name(name) for name in defined_in(ast.parse(source)))


def test_names_from_other_packages_may_contain_any_word():
    assert not list(defined_in(ast.parse("study.tell(number, value)")))


def defined_in(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module defines: those it merely uses may come from other packages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def split_name(name: str) -> set[str]:
    """Split `snake_case` and `CamelCase` into lower-case words."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
