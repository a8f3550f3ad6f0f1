"""Results outlive a refactoring: in a copy of the packages, only changes of numbers count."""

from __future__ import annotations

import ast
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.model.build import TRANSFORMS
from bench.plan.definitions import HOME, NO_NUMBERS, Definition, Definitions
from bench.plan.fingerprint import MEASURED, TRAINING, UNTRAINED, Fingerprints
from bench.plan.normal_form import SHOWN
from bench.plan.registration import REGISTRIES
from moe_router_bench import PACKAGES
from routers import ROUTERS, Router

ENTRIES = [entry for kind in (*REGISTRIES.values(), TRANSFORMS) for entry in kind.entries()]
ROOTS = {"training": TRAINING, "untrained": UNTRAINED, "measured": MEASURED}

RENAMED = {
    module: f"{module}_renamed"
    for module in (
        *("routers.token_choice", "routers.logits", "bench.train.step"),
        *("bench.model.moe", "bench.model.experts.stacked", "bench.data.order", "suites.accuracy"),
    )
}

MUTATED = (
    *("routers.token_choice", "routers.expert_choice", "routers.soft", "routers.mixture"),
    *("routers.nulls", "routers.transport", "routers.routing", "routers.losses"),
    *("routers.affinity", "bench.model.experts", "bench.model.moe", "bench.model.build"),
    *("bench.model.backbone", "bench.model.state", "bench.train.step", "bench.model.objective"),
    *("bench.train.evaluation", "bench.train.loop", "bench.data.batches", "bench.compute.budget"),
    *("bench.compute.flops", "bench.data.order", "bench.data.dataset"),
    "bench.data.pictures",
    *("suites.accuracy", "suites.balance", "suites.entropy", "suites.throughput"),
)
"""Modules and packages in which every change can change a number."""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of this repository's packages."""
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "*.npz", "*.png")
        shutil.copytree(HOME / package, tmp_path / package, ignore=ignored)
    return tmp_path


def digests(definitions: Definitions) -> dict[tuple[str, str], str]:
    """Return the digest of each component and each protocol."""
    prints = Fingerprints(definitions)
    protocols = {
        ("protocol", name): prints._protocol(name, roots).digest for name, roots in ROOTS.items()
    }
    return protocols | {(e.kind, e.name): prints.component(e).digest for e in ENTRIES}


@pytest.fixture(scope="module")
def original() -> dict[tuple[str, str], str]:
    return digests(Definitions())


class Renamed(Definitions):
    """The definitions of a copy whose modules have other names."""

    def of(self, module: str, name: str) -> frozenset[Definition]:
        return super().of(RENAMED.get(module, module), name)


def test_renaming_a_module_makes_nothing_stale(copy: Path, original) -> None:
    for old, new in RENAMED.items():
        (package, name), other = old.rsplit(".", 1), new.rpartition(".")[2]
        file = copy.joinpath(*old.split("."))
        file.with_suffix(".py").rename(file.with_name(f"{other}.py"))
        for each in copy.rglob("*.py"):
            text = re.sub(rf"\b{re.escape(old)}\b", new, each.read_text("utf-8"))
            lines = text.split("\n")
            for number, line in enumerate(lines):
                if line.startswith(f"from {package} import "):
                    lines[number] = re.sub(rf"\b{name}\b", f"{other} as {name}", line)
            each.write_text("\n".join(lines), "utf-8")
    assert digests(Renamed(copy)) == original


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("learning_rate", "bench.train.optimizer", "bench.train.evaluation"),
        ("step_stats", "routers.stepping", "routers.layer_info"),
        ("calibration_error", "suites.accuracy", "suites.support.base"),
    ],
)
def test_moving_a_function_makes_nothing_stale(
    copy: Path, original, name: str, old: str, new: str
) -> None:
    (source,), (target,) = files_of(copy, old), files_of(copy, new)
    text = source.read_text("utf-8")
    node = next(n for n in ast.parse(text).body if getattr(n, "name", "") == name)
    lines = text.split("\n")
    moved = "\n".join(lines[node.lineno - 1 : node.end_lineno])
    rest = "\n".join(lines[: node.lineno - 1] + lines[node.end_lineno :])
    source.write_text(f"{rest}\nfrom {new} import {name}\n", "utf-8")
    used = [
        imported
        for imported in ast.parse(text).body
        if isinstance(imported, (ast.Import, ast.ImportFrom))
        if getattr(imported, "module", "") != "__future__"
    ]
    constants = re.findall(r"\b[A-Z][A-Z_]+\b", moved)
    used += [ast.parse(f"from {old} import {each}") for each in constants if each in rest]
    with target.open("a", encoding="utf-8") as file:
        file.write("\n" + "\n".join(map(ast.unparse, used)) + f"\n\n{moved}\n")
    for each in copy.rglob("*.py"):
        changed = re.sub(
            rf"from {re.escape(old)} import ([^(\n]*)\b{name}\b",
            rf"from {new} import {name}\nfrom {old} import \1{name} as _{name}",
            each.read_text("utf-8"),
        )
        each.write_text(changed, "utf-8")
    assert digests(Definitions(copy)) == original


class Reworded(ast.NodeTransformer):
    """A transformer that rewords every error, warning, print and docstring."""

    def _other_texts(self, node: ast.AST) -> None:
        for each in ast.walk(node):
            if isinstance(each, ast.Constant) and isinstance(each.value, str):
                each.value = f"Otherwise: {each.value}"

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        self._other_texts(node)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        called = ast.unparse(node.value.func) if isinstance(node.value, ast.Call) else ""
        if isinstance(node.value, ast.Constant) or called in ("print", "warnings.warn"):
            self._other_texts(node)
        return node


@pytest.mark.slow
def test_rewording_texts_and_reformatting_make_nothing_stale(copy: Path, original) -> None:
    for file in copy.rglob("*.py"):
        before = file.read_text("utf-8")
        after = ast.unparse(Reworded().visit(ast.parse(before)))
        file.write_text(f"# A comment.\n{after}\nUNUSED = 1\n", "utf-8")
    assert digests(Definitions(copy)) == original


SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.FloorDiv: ast.Mult, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE},
    **{ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.USub: ast.UAdd, ast.Not: ast.UAdd},
}


def places(node: ast.AST) -> Iterator[ast.AST]:
    """Return constants and operators that take part in a computation."""
    if isinstance(node, (ast.Raise, ast.JoinedStr)):
        return
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func).rpartition(".")[2]
        if name in SHOWN or name.endswith("Error"):
            return
    number = isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float))
    if number or type(operator_of(node)) in SWAPPED:
        yield node
    for key, value in ast.iter_fields(node):
        if key not in ("annotation", "returns"):
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, ast.AST):
                    yield from places(each)


def operator_of(node: ast.AST) -> ast.AST | None:
    return node.ops[0] if isinstance(node, ast.Compare) else getattr(node, "op", None)


def mutate(node: ast.AST) -> Callable[[], None]:
    """Change a place; return a function that undoes it."""
    if isinstance(node, ast.Constant):
        key, old = "value", node.value
        new = not old if isinstance(old, bool) else old + 1
    elif isinstance(node, ast.Compare):
        key, old = "ops", node.ops
        new = [SWAPPED[type(old[0])](), *old[1:]]
    else:
        key, old = "op", node.op
        new = SWAPPED[type(old)]()
    setattr(node, key, new)
    return lambda: setattr(node, key, old)


def files_of(copy: Path, module: str) -> list[Path]:
    """Return the file of a module, or all files of a package."""
    path = copy.joinpath(*module.split("."))
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def router_around(tree: ast.Module, node: ast.AST, file: Path) -> type | None:
    """Return the router class that contains a place."""
    module = sys.modules[".".join(file.with_suffix("").parts)]
    around = next(each for each in tree.body if any(node is inner for inner in ast.walk(each)))
    around_it = getattr(module, getattr(around, "name", ""), None)
    return around_it if isinstance(around_it, type) and issubclass(around_it, Router) else None


@pytest.mark.parametrize("mutations", [50, pytest.param(500, marks=pytest.mark.campaign)])
@pytest.mark.slow
def test_a_change_of_a_number_makes_everything_that_uses_it_stale(
    copy: Path, original, mutations: int
) -> None:
    draw = random.Random(0)
    files = [
        file for name in MUTATED for file in files_of(copy, name) if file.name != "__init__.py"
    ]
    trees = {file: ast.parse(file.read_text("utf-8")) for file in files}
    mutable = {file: list(places(tree)) for file, tree in trees.items()}
    # Each file in turn, so that a long one is not drawn too often.
    turns = [file for file in files if mutable[file]]
    draw.shuffle(turns)
    chosen = [(file, draw.choice(mutable[file])) for file in (turns * mutations)[:mutations]]
    survived = []
    for file, node in chosen:
        before = file.read_text("utf-8")
        take_back = mutate(node)
        file.write_text(ast.unparse(trees[file]), "utf-8")
        now = digests(Definitions(copy))
        stale = {key for key, digest in now.items() if digest != original[key]}
        take_back()
        file.write_text(before, "utf-8")
        where = f"{file.relative_to(copy)}:{node.lineno}: {sorted(stale)}"
        if not stale:
            survived.append(where)
        if router := router_around(trees[file], node, file.relative_to(copy)):
            heirs = {("router", e.name) for e in ROUTERS.entries() if router in e.target.__mro__}
            assert {key for key in stale if key[0] == "router"} == heirs, where
    assert survived == []


def test_a_change_of_one_router_does_not_make_others_stale(copy: Path, original) -> None:
    file = copy / "routers/soft.py"
    text = file.read_text("utf-8")
    changed = text.replace("max(1,", "max(2,", 1)
    assert changed != text
    file.write_text(changed, "utf-8")
    now = digests(Definitions(copy))
    assert {key for key in now if now[key] != original[key]} == {("router", "soft_moe")}


def test_changing_a_module_that_is_not_followed_makes_nothing_stale(copy: Path, original) -> None:
    for module in NO_NUMBERS:
        with copy.joinpath(*module.split(".")).with_suffix(".py").open("a") as file:
            file.write("\nNEW = 1\n")
    assert digests(Definitions(copy)) == original
