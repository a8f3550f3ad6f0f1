"""What is tracked is small, and the citation says what the package says."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
MEGABYTE = 10**6
LARGE = {Path("bench/data/fashion_mnist_mini/images.npz")}
"""Data that the bench is delivered with."""


def test_no_tracked_file_is_over_a_megabyte():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = [Path(name) for name in listed.stdout.split("\0") if name]
    large = {file for file in files if (ROOT / file).is_file() and size(file) > MEGABYTE}
    assert len(files) > 100
    assert large == LARGE


def size(file: Path) -> int:
    return (ROOT / file).stat().st_size


def test_the_citation_is_complete_and_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["authors"] == [{"name": "The MoE router bench developers"}]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]["text"]
