"""A fingerprint changes with what a trial depends on, and with nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from bench import fingerprint, source_tree
from bench.config import TrialSpec
from bench.fingerprint import Fingerprints, components_of, layer_description
from bench.presets import load_preset
from bench.source_tree import Root, source_hashes
from bench.specs import trial_specs
from moe_router_bench import PACKAGES
from routers.beside import import_file
from suites import SUITES

Tree = Callable[[dict[str, str]], Path]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Makes `tmp_path` the repository, with these files."""

    def make(files: dict[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(source_tree, "REPOSITORY", Root(tmp_path, PACKAGES))
        return tmp_path

    return make


FILES = {
    "routers/__init__.py": "from routers.base import Base\nfrom routers import one, two\n",
    "routers/base.py": "from .tools import helper\nclass Base: ...\n",
    "routers/tools.py": "def helper(): return 1\n",
    "routers/one.py": "import math\nfrom routers import Base\nclass One(Base): ...\n",
    "routers/two.py": "from routers.base import Base\nclass Two(Base): ...\n",
}


def test_a_name_is_followed_through_a_package_to_where_it_is_defined(tree: Tree) -> None:
    root = tree(FILES)
    found = source_hashes([root / "routers/one.py"])
    assert list(found) == ["routers.base", "routers.one", "routers.tools"]


def test_a_whole_package_is_a_dependency_where_it_is_imported_as_one(tree: Tree) -> None:
    root = tree(FILES | {"routers/three.py": "def f():\n    import routers\n"})
    found = source_hashes([root / "routers/three.py"])
    assert set(found) == {
        *("routers", "routers.base", "routers.one", "routers.tools", "routers.three"),
        "routers.two",
    }


@pytest.mark.parametrize(
    "text",
    [
        "def helper(): return 1  # one\n",
        'def helper():\n    """It is one."""\n    return 1\n',
        '"""Tools."""\n\n\ndef helper():\n    return (1)\n',
    ],
)
def test_comments_docstrings_and_layout_do_not_count(tree: Tree, text: str) -> None:
    root = tree(FILES)
    before = source_hashes([root / "routers/one.py"])
    tree({"routers/tools.py": text})
    assert source_hashes([root / "routers/one.py"]) == before


def test_code_counts_wherever_it_is_imported_from(tree: Tree) -> None:
    root = tree(FILES)
    before = source_hashes([root / "routers/one.py"])
    tree({"routers/two.py": "class Two: ...\n"})
    assert source_hashes([root / "routers/one.py"]) == before
    tree({"routers/tools.py": "def helper(): return 2\n"})
    after = source_hashes([root / "routers/one.py"])
    assert {name for name in before if before[name] != after[name]} == {"routers.tools"}


def test_a_docstring_may_be_all_there_is_in_a_body(tree: Tree) -> None:
    root = tree({"routers/base.py": 'class Base:\n    """Nothing."""\n'})
    before = source_hashes([root / "routers/base.py"])
    tree({"routers/base.py": 'class Base:\n    """Something."""\n'})
    assert source_hashes([root / "routers/base.py"]) == before


def test_imports_for_the_type_checker_do_not_count(tree: Tree) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from routers import two\n"
    root = tree(FILES | {"routers/three.py": text})
    assert list(source_hashes([root / "routers/three.py"])) == ["routers.three"]


def test_a_plugin_depends_on_what_lies_beside_it(tree: Tree, tmp_path: Path) -> None:
    tree(FILES)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "mine.py").write_text("import torch\nimport helper\nfrom routers import Base\n")
    (folder / "helper.py").write_text("from pack.inner import thing\n")
    (folder / "unrelated.py").write_text("x = 1\n")
    (folder / "pack").mkdir()
    (folder / "pack/__init__.py").write_text("")
    (folder / "pack/inner.py").write_text("thing = 1\n")
    found = source_hashes([folder / "mine.py"])
    ours = {"routers.base", "routers.tools"}
    assert set(found) == {"helper", "mine", "pack", "pack.inner", *ours}
    (folder / "pack/inner.py").write_text("thing = 2\n")
    assert source_hashes([folder / "mine.py"]) != found


def test_a_plugin_in_a_package_depends_on_its_relatives(tree: Tree, tmp_path: Path) -> None:
    tree(FILES)
    package = tmp_path / "elsewhere" / "pack"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from .mine import Mine\n")
    (package / "mine.py").write_text("from . import near\nfrom .far import *\nclass Mine: ...\n")
    (package / "near.py").write_text("")
    (package / "far.py").write_text("")
    found = source_hashes([package / "mine.py"])
    assert set(found) == {"pack", "pack.far", "pack.mine", "pack.near"}


def test_a_loaded_plugin_finds_what_lies_beside_it_also_in_a_package(
    tree: Tree, tmp_path: Path
) -> None:
    """As `load_plugin` does: what was imported is what counts."""
    tree(FILES)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "helper.py").write_text("")
    (folder / "mine.py").write_text("import helper\n")
    module = import_file(folder / "mine.py")
    assert Path(module.helper.__file__) == folder / "helper.py"
    assert set(source_hashes([folder / "mine.py"])) == {"helper", "mine"}


def spec_of(router: str) -> TrialSpec:
    return next(s for s in trial_specs(load_preset("smoke")) if s.router.name == router)


def modules_of(spec: TrialSpec, kind: str) -> set[str]:
    parts = Fingerprints().trial(spec, lambda _: "data").parts
    return {module for part in parts if part.kind == kind for module in part.modules}


def test_a_router_does_not_depend_on_other_routers_nor_on_commands() -> None:
    spec = spec_of("softmax_token_choice")
    everything = set().union(*(modules_of(spec, kind) for kind in ("router", "protocol")))
    assert {"routers.token_choice", "bench.train", "bench.model.moe"} <= everything
    others = {"routers.soft", "routers.nulls", "bench.presets", "bench.plan", "results.store"}
    assert not everything & others
    assert not {module for module in everything if module.startswith("bench.cli")}


def test_each_part_of_a_trial_changes_its_fingerprint() -> None:
    fingerprints = Fingerprints()
    spec = spec_of("softmax_token_choice")
    changed = [
        spec.model_copy(update={"seed": 1}),
        spec.model_copy(update={"train": spec.train.model_copy(update={"lr": 1.0})}),
        spec.model_copy(update={"data": spec.data.model_copy(update={"channels": 3})}),
        spec_of("random"),
    ]
    values = [fingerprints.trial(each, lambda _: "data").value for each in (spec, *changed)]
    values.append(fingerprints.trial(spec, lambda _: "other data").value)
    assert len(set(values)) == len(values)
    assert (
        fingerprints.trial(spec, lambda _: "data").value
        == Fingerprints().trial(spec, lambda _: "data").value
    )


def test_where_the_data_lies_does_not_change_a_fingerprint() -> None:
    spec = spec_of("soft_moe")
    moved = spec.model_copy(update={"data": spec.data.model_copy(update={"data_dir": "/there"})})
    fingerprints = Fingerprints()
    assert (
        fingerprints.trial(spec, lambda _: "d").value
        == fingerprints.trial(moved, lambda _: "d").value
    )


def test_a_trial_is_made_of_its_components() -> None:
    names = {(entry.kind, entry.name) for entry in components_of(spec_of("soft_moe"))}
    assert names == {
        ("router", "soft_moe"),
        ("affinity", "soft"),
        ("experts", "mlp"),
        ("loss", "importance"),
    }
    assert [entry.name for entry in components_of(spec_of("dense"))] == ["dense"]


def test_a_layer_knows_no_recipe_no_seed_and_no_loss() -> None:
    spec = spec_of("soft_moe")
    fingerprints = Fingerprints()
    trained_otherwise = spec.model_copy(
        update={"seed": 3, "train": spec.train.model_copy(update={"lr": 1.0, "losses": {}})}
    )
    layer = fingerprints.layer(spec)
    assert layer.value == fingerprints.layer(trained_otherwise).value
    assert layer.value != fingerprints.layer(spec_of("random")).value
    assert layer_description(spec).keys() == {"router", "experts", "model", "data"}
    assert "loss" not in {part.kind for part in layer.parts}


@pytest.mark.parametrize("module", ["bench.subject", "bench.facts", "bench.trial_model"])
def test_what_is_measured_depends_on_what_suites_are_handed(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured() -> tuple[str, str, str]:
        fingerprints = Fingerprints()
        suites = (fingerprints.suite(SUITES.get(name)) for name in ("accuracy", "throughput"))
        return fingerprints.layer(spec_of("soft_moe")).value, *suites

    def changed(files: Iterable[Path]) -> dict[str, str]:
        hashes = source_hashes(files)
        return hashes | ({module: "changed"} if module in hashes else {})

    before = measured()
    assert measured() == before
    monkeypatch.setattr(fingerprint, "source_hashes", changed)
    assert not set(measured()) & set(before)


def test_the_hashes_are_of_the_files_that_are_there(tmp_path: Path) -> None:
    copy = tmp_path / "soft.py"
    shutil.copy(source_tree.HOME / "routers/soft.py", copy)
    original = source_hashes([source_tree.HOME / "routers/soft.py"])
    assert source_hashes([copy])["soft"] == original["routers.soft"]


def test_pretrained_weights_count_by_their_content_not_their_place(tmp_path: Path) -> None:
    spec = next(iter(trial_specs(load_preset("smoke"))))

    def value(file: Path | None) -> str:
        model = spec.model.model_copy(update={"weights": file and str(file)})
        with_file = spec.model_copy(update={"model": model})
        return Fingerprints().trial(with_file, lambda data: "data").value

    first, moved, other = (tmp_path / name / "a.pth" for name in ("one", "two", "three"))
    for file, content in ((first, b"weights"), (moved, b"weights"), (other, b"others")):
        file.parent.mkdir()
        file.write_bytes(content)
    assert len({value(file) for file in (None, first, other)}) == 3
    assert value(moved) == value(first)
