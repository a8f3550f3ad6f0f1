"""The README and docs/ are complete, their links resolve, and their examples work when pasted."""

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
from bench.config.presets import load_preset, preset_names
from bench.data import DATASETS
from bench.model import EXPERTS
from bench.plan.expand import trial_specs
from results import load_study
from routers import AFFINITIES, LOSSES, ROUTERS
from suites import SUITES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKING = [*PAGES, ROOT / "CONTRIBUTING.md"]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FOLDERS = ("bench", "docs", "report", "results", "routers", "suites", "tests", "tools")
NAMED = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/(?:[\w.-]*\w/?)*")
"""A path from the root of the repository, without the punctuation that ends the sentence."""
LINK = re.compile(r"!?\[[^]]*\]\(([^)\s]+)\)")


def blocks(page: str, language: str, containing: str = "") -> list[str]:
    """Return the fenced blocks of a page in this language that contain a text."""
    fenced = FENCE.findall((ROOT / page).read_text(encoding="utf-8"))
    return [block for kind, block in fenced if kind == language and containing in block]


def commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each `python bench.py …` in fenced blocks and inline code."""
    fenced = [block for language, block in FENCE.findall(text) if not language]
    inline = re.findall(r"`([^`]+)`", FENCE.sub("", text))
    lines = [line for block in fenced for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *(" ".join(code.split()) for code in inline)]:
        tokens = shlex.shlex(line, posix=True, punctuation_chars=";|&")
        tokens.whitespace_split = True
        split: list[list[str]] = [[]]
        for word in tokens if "bench.py " in line else ():
            if set(word) <= set(";|&"):
                split.append([])
            else:
                split[-1].append(word)
        for command in split:
            if command[:2] == ["python", "bench.py"]:
                yield command[2:]


def leaves(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full name of every command that is not a group."""
    if isinstance(command, CommandGroup):
        for key, inner in command.commands.items():
            yield from leaves(inner, f"{name} {key}".strip())
    else:
        yield name, command


CommandGroup = type(typer.main.get_command(app))
LEAVES = dict(leaves(typer.main.get_command(app)))
COMMANDS = list(dict.fromkeys(shlex.join(command) for command in commands(TEXT)))


def test_the_readme_is_short():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("name", LEAVES)
def test_the_docs_mention_every_command_and_option(name):
    assert re.search(rf"(bench\.py |`){name}\b", TEXT)
    for parameter in LEAVES[name].params:
        for option in parameter.opts:
            if option.startswith("--") and option != "--help":
                assert option in TEXT, f"{name} {option}"


def test_the_docs_mention_every_component_by_name():
    kinds = (ROUTERS, AFFINITIES, EXPERTS, LOSSES, SUITES)
    components = [entry for kind in kinds for entry in kind.entries()]
    # Plugins of other tests may be registered as well.
    own = ("routers.", "suites.", "bench.")
    names = [c.name for c in components if c.target.__module__.startswith(own)]
    assert len(names) > 30
    for name in [*names, *preset_names(), *DATASETS.names()]:
        assert f"`{name}`" in TEXT, name


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_line_in_the_docs_parses(line):
    arguments = shlex.split(line)
    if arguments == ["…"] or "NAME" in arguments:
        return
    command = typer.main.get_command(app)
    while isinstance(command, CommandGroup):
        command = command.commands[arguments.pop(0)]
    command.make_context(command.name, arguments)


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_every_link_points_to_an_existing_file_and_heading(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            file, _, heading = link.partition("#")
            target = page.parent / file if file else page
            assert target.is_file(), link
            assert not heading or heading in headings(target), link


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_linked_from_the_readme():
    linked = {(ROOT / link).resolve() for link in LINK.findall(PAGES[0].read_text("utf-8"))}
    assert set(PAGES[1:]) <= linked
    assert any(file.suffix == ".png" for file in linked)


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_every_file_and_folder_named_in_the_docs_exists(page):
    text = page.read_text(encoding="utf-8")
    own = set(re.findall(r"Save this as `([\w.]+)`", text))
    for name in NAMED.findall(text):
        assert (ROOT / name).exists(), name
    for name in set(re.findall(r"`(\w+\.(?:py|yaml))`", text)) - own:
        assert any(file.name == name for folder in FOLDERS for file in (ROOT / folder).rglob("*"))


@pytest.mark.parametrize("text", ["see bench/plan/reuse.py.", "`suites/presets/`", "`routers/`"])
def test_files_and_folders_are_recognised_in_a_text(text):
    (name,) = NAMED.findall(text)
    assert (ROOT / name).exists()


def python(folder: Path, *arguments: str) -> str:
    """Run Python in a folder and return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, in_process) -> Path:
    """A folder in which the README's first example was run; a small study is named tiny."""
    made = tmp_path_factory.mktemp("reader")
    (router,) = blocks("README.md", "python", "register_router")
    (made / "temperature.py").write_text(router)
    (block,) = blocks("README.md", "", "python bench.py check temperature_top1")
    for command in commands(f"```\n{block}```"):
        python(made, str(ROOT / "bench.py"), *command)
    rerun = ["--preset", "smoke", "--routers", "soft_moe,dense", "--study", "tiny", "--no-report"]
    in_process(made, "run", "accuracy", *rerun)
    return made


@pytest.mark.slow
def test_the_router_example_works_when_pasted(folder: Path):
    assert "temperature_top1" in (folder / "runs/reports/smoke/index.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_the_frames_example_works_when_pasted(folder: Path, page: str):
    (example,) = blocks(page, "python", "load_study")
    printed = python(folder, "-c", example)
    assert "soft_moe" in printed
    assert "dense" in printed


@pytest.mark.slow
def test_the_suite_example_works_when_pasted(folder: Path, in_process):
    (suite,) = blocks("docs/suites.md", "python", "register_suite")
    (folder / "confidence.py").write_text(suite)
    (block,) = blocks("docs/suites.md", "", "--plugin confidence.py")
    for command in commands(f"```\n{block}```"):
        in_process(folder, *command)
    metrics = load_study("confidence", home=folder / "runs").metrics
    measured = metrics[metrics.suite == "confidence"]
    assert set(measured.router) == {"soft_moe", "dense"}
    assert measured.step.notna().any()
    assert measured.value.between(0, 1).all()


@pytest.mark.slow
def test_the_data_set_example_works_when_pasted(tmp_path: Path, in_process):
    (example,) = blocks("docs/suites.md", "python", "register_dataset")
    (tmp_path / "data_bars.py").write_text(example)
    (block,) = blocks("docs/suites.md", "", "--plugin data_bars.py")
    for command in commands(f"```\n{block}```"):
        in_process(tmp_path, *command)
    assert set(load_study("bars", home=tmp_path / "runs").trials.data) == {"bars"}


@pytest.mark.slow
def test_the_examples_of_the_other_components_work_when_pasted(tmp_path: Path, in_process):
    (example,) = blocks("docs/routers.md", "python", "register_affinity")
    (tmp_path / "mine.py").write_text(example)
    for name in ("peak", "experts:shared_scale"):
        in_process(tmp_path, "check", name, "--plugin", "mine.py")
    settings = ["router.affinity=scaled", "experts.name=shared_scale", "train.losses={peak: 0.1}"]
    sets = [word for setting in settings for word in ("--set", setting)]
    small = ["--preset", "smoke", "--routers", "softmax_token_choice", "--no-report"]
    in_process(tmp_path, "run", "accuracy", *small, *sets, "--plugin", "mine.py")


@pytest.mark.slow
def test_the_router_with_a_state_works_when_pasted(tmp_path: Path, in_process):
    (example,) = blocks("docs/routers.md", "python", "register_buffer")
    (tmp_path / "busy.py").write_text(example)
    in_process(tmp_path, "check", "busy_penalty", "--plugin", "busy.py")


@pytest.mark.slow
def test_the_layer_example_works_when_pasted():
    (example,) = blocks("docs/routers.md", "python", "moefy")
    assert python(ROOT, "-c", example).startswith("tensor([[")


def test_the_preset_example_is_a_valid_preset(tmp_path: Path):
    (example,) = blocks("docs/presets.md", "yaml")
    (tmp_path / "my.yaml").write_text(example)
    specs = trial_specs(load_preset(str(tmp_path / "my.yaml")))
    assert {spec.transform for spec in specs} == {None, "distill"}
