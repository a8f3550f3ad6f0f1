"""The README names all that there is, and its examples work when pasted."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from bench.cli import app
from bench.data import DATASETS
from bench.presets import preset_names
from routers import AFFINITIES, ROUTERS
from suites import SUITES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.partition("#")[0] for line in README.splitlines() if "python bench.py " in line]


def leaves(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its full name."""
    if isinstance(command, CommandGroup):
        for key, inner in command.commands.items():
            yield from leaves(inner, f"{name} {key}".strip())
    else:
        yield name, command


CommandGroup = type(typer.main.get_command(app))
LEAVES = dict(leaves(typer.main.get_command(app)))


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_and_option_stands_in_the_readme(name):
    assert f"bench.py {name}" in README
    for parameter in LEAVES[name].params:
        for option in parameter.opts:
            if option.startswith("--") and option != "--help":
                assert f"{option}" in README, f"{name} {option}"


def test_every_component_and_preset_stands_in_the_readme():
    kinds = (ROUTERS, AFFINITIES, SUITES, DATASETS)
    components = [entry for kind in kinds for entry in kind.entries()]
    # Plugins of other tests may be registered too.
    packages = ("routers.", "suites.", "bench.data.")
    ours = [c.name for c in components if c.target.__module__.startswith(packages)]
    assert len(ours) > 15
    for name in [*ours, *preset_names()]:
        assert f"`{name}`" in README


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_line_of_the_readme_parses(line):
    found = re.search(r"python bench\.py ([^`|]*)", line)
    assert found
    given = shlex.split(found[1])
    if "…" in given or "NAME" in given:
        return
    command = typer.main.get_command(app)
    while isinstance(command, CommandGroup):
        command = command.commands[given.pop(0)]
    command.make_context(command.name, given)


def test_the_layer_example_works_when_pasted():
    section = README.partition("## Routers")[2].partition("\n## ")[0]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert example
    done = subprocess.run(
        [sys.executable, "-c", example[1]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tensor([[")


def test_nothing_is_left_open_and_every_picture_is_there():
    assert not re.search(r"@[A-Z]+@", README)
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).is_file()


def test_the_first_example_works_when_pasted(tmp_path):
    section = README.partition("## Register a router")[2].partition("\n## ")[0]
    router = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    commands = re.search(r"```\n(python bench\.py check .*?)```", section, re.DOTALL)
    assert router
    assert commands
    (tmp_path / "temperature.py").write_text(router[1])
    for line in commands[1].splitlines():
        given = shlex.split(line)
        assert given[:2] == ["python", "bench.py"]
        done = subprocess.run(
            [sys.executable, str(ROOT / "bench.py"), *given[2:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "temperature_top1" in (tmp_path / "runs/reports/smoke/index.html").read_text()


def test_the_data_set_passes_its_checks_when_pasted(tmp_path):
    example = re.search(r"```python\n([^`]*@register_dataset.*?)```", README, re.DOTALL)
    assert example
    (tmp_path / "bars.py").write_text(example[1])
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench.py"), "check", "bars", "--plugin", "bars.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train 720, val 80, test 200" in done.stdout
