"""A user's file anywhere on disk becomes a router; a broken one says why, without side effects."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from routers import LOSSES, RequestError, build_router, list_routers, load_entry_points, load_plugin
from routers.registry import Registry

PLUGIN = """
import torch
from routers import Router, TokenChoiceRouting, register_router

@register_router("{name}", family="token_choice")
class Mine(Router):
    '''Top-1 softmax routing with a temperature.'''
    temperature: float = 0.5

    def allocate(self, logits):
        gates = torch.softmax(logits / self.temperature, dim=-1)
        return TokenChoiceRouting.top_k(gates, k=1, capacity=self.capacity(logits))
"""


@pytest.fixture(autouse=True)
def _nothing_stays():
    """Forget after a test whatever it loaded."""
    before = {registry: registry.names() for registry in Registry.instances}
    yield
    for registry in Registry.instances:
        for name in set(registry.names()) - set(before.get(registry, registry.names())):
            registry.discard(name)


def write(folder: Path, text: str, name: str = "my_router.py") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(text)
    return file


def failure(file: Path) -> str:
    with pytest.raises(RequestError) as caught:
        load_plugin(file)
    assert caught.value.exit_status == 2
    return str(caught.value)


def test_a_file_becomes_a_router(tmp_path):
    module = load_plugin(write(tmp_path, PLUGIN.format(name="mine")))
    router = build_router("mine", dim=4, num_experts=2, temperature=0.25)
    assert isinstance(router, module.Mine)
    routing = router(torch.randn(3, 6, 4))
    assert routing.expert_load().sum() > 0
    assert sys.modules[module.__name__] is module


def test_loading_twice_is_harmless(tmp_path):
    file = write(tmp_path, PLUGIN.format(name="mine"))
    assert load_plugin(file) is load_plugin(tmp_path / "x" / ".." / "my_router.py")


def test_a_file_name_that_is_no_identifier_works(tmp_path):
    load_plugin(write(tmp_path, PLUGIN.format(name="mine"), "my router-2.1.py"))
    load_plugin(write(tmp_path, PLUGIN.format(name="other"), "my_router_2_1.py"))
    assert {"mine", "other"} <= set(list_routers())


def test_modules_beside_a_plugin_can_be_imported_as_in_a_script(tmp_path):
    """This includes late imports within a function, and imports by a helper."""
    text = (
        "import helper\nimport package.inner\nfrom . import helper as relative\n"
        + PLUGIN.format(name="mine")
        + "\ndef late():\n    from later import NAME\n    return NAME\n"
    )
    write(tmp_path, "from deeper import VALUE", "helper.py")
    write(tmp_path, "VALUE = 1", "deeper.py")
    write(tmp_path, "NAME = 'late'", "later.py")
    write(tmp_path / "package", "", "__init__.py")
    write(tmp_path / "package", "from helper import VALUE", "inner.py")
    module = load_plugin(write(tmp_path, text))
    assert (module.helper.VALUE, module.package.inner.VALUE) == (1, 1)
    assert module.relative.VALUE == 1
    assert module.late() == "late"


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("import helper", "helper"),
        ("def late():\n    from helper import VALUE", "helper"),
        ("import through", "deeper"),
        ("from package.inner import VALUE", "package"),
    ],
)
def test_helpers_of_the_same_name_are_refused(tmp_path, statement, name):
    """There is one in each of two folders; the message names both files, and a way out."""
    files = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        write(folder, f"VALUE = {folder.name!r}", "helper.py")
        write(folder, f"VALUE = {folder.name!r}", "deeper.py")
        write(folder, "from deeper import VALUE", f"through{folder.name}.py")
        write(folder / "package", "", "__init__.py")
        write(folder / "package", "VALUE = 1", "inner.py")
        own = statement.replace("through", f"through{folder.name}")
        text = PLUGIN.format(name=f"router_{folder.name}")
        files.append(write(folder, f"{own}\n{text}"))
    load_plugin(files[0])
    before = list_routers(), list(sys.path), set(sys.modules)
    message = failure(files[1])
    ends = "package/__init__.py" if name == "package" else f"{name}.py"
    assert f"`import {name}` means {tmp_path / 'b' / ends}" in message
    assert f"would find {tmp_path / 'a' / ends}: rename one" in message
    assert (list_routers(), list(sys.path), set(sys.modules)) == before
    (tmp_path / "b" / ends).rename(tmp_path / "b" / "other.py")
    files[1].write_text(f"import other\n{PLUGIN.format(name='router_b')}")
    assert load_plugin(files[1]).other.__file__ == str(tmp_path / "b" / "other.py")


def test_relative_imports_distinguish_helpers_of_the_same_name(tmp_path):
    modules = []
    for name in ("a", "b"):
        write(tmp_path / name, f"VALUE = {name!r}", "helper.py")
        text = f"from .helper import VALUE\n{PLUGIN.format(name=f'router_{name}')}"
        modules.append(load_plugin(write(tmp_path / name, text)))
    assert [module.VALUE for module in modules] == ["a", "b"]


def test_a_helper_shadowed_by_a_library_is_refused(tmp_path):
    write(tmp_path, "VALUE = 1", "entmax.py")
    message = failure(write(tmp_path, "import entmax\n" + PLUGIN.format(name="mine")))
    assert f"`import entmax` means {tmp_path / 'entmax.py'}, and would find " in message


def test_helpers_are_shared_within_a_folder(tmp_path):
    """Two plugins may share a helper that registers something."""
    helper = (
        "from routers import register_loss\n"
        '@register_loss("shared_loss")\n'
        "def shared_loss(routing, batch):\n    return routing.gates.sum()\n"
    )
    write(tmp_path, helper, "shared.py")
    load_plugin(write(tmp_path, "import shared\n" + PLUGIN.format(name="one"), "one.py"))
    load_plugin(write(tmp_path, "from shared import *\n" + PLUGIN.format(name="two"), "two.py"))
    assert "shared_loss" in LOSSES.names()


def test_a_plugin_may_be_a_helper_of_another(tmp_path):
    write(tmp_path, PLUGIN.format(name="plain_base"), "base_router.py")
    text = "from base_router import Mine as Base\n" + PLUGIN.format(name="derived")
    load_plugin(write(tmp_path, text, "derived.py"))
    base = load_plugin(tmp_path / "base_router.py")
    assert {"plain_base", "derived"} <= set(list_routers())
    again = "from base_router import Mine as Base\n" + PLUGIN.format(name="again")
    assert load_plugin(write(tmp_path, again, "again.py")).Base is base.Mine


def test_neither_the_standard_library_nor_a_file_of_the_same_name_is_shadowed(tmp_path):
    """A plugin may be called like the library that it builds on; so may its neighbours."""
    text = "import entmax, random, routers\n" + PLUGIN.format(name="mine")
    write(tmp_path, "raise SystemExit('not this one')", "random.py")
    write(tmp_path / "routers", "raise SystemExit('not this one')", "__init__.py")
    module = load_plugin(write(tmp_path, text, "entmax.py"))
    assert module.entmax.entmax15
    assert module.routers is sys.modules["routers"]


def test_a_neighbour_is_never_mistaken_for_a_package_of_the_bench(tmp_path):
    """Even if the plugin itself has such a name, which nevertheless works as a plugin."""
    write(tmp_path, "raise SystemExit('not this one')", "results.py")
    write(tmp_path, PLUGIN.format(name="neighbour"), "routers.py")
    text = "import results, suites\n" + PLUGIN.format(name="mine")
    module = load_plugin(write(tmp_path, text, "suites.py"))
    assert [module.results, module.suites] == [sys.modules["results"], sys.modules["suites"]]
    load_plugin(tmp_path / "routers.py")
    assert {"mine", "neighbour"} <= set(list_routers())


def test_an_import_error_names_the_line_of_the_plugin(tmp_path):
    file = write(tmp_path, "import torch\n\nfrom routers import Roter\n")
    message = failure(file)
    assert f"{file}:3: from routers import Roter — ImportError: cannot import name" in message


def test_the_line_of_the_plugin_is_named_even_if_a_library_raises(tmp_path):
    file = write(tmp_path, "import json\nx = json.loads('{')\n")
    message = failure(file)
    assert f"{file}:2: x = json.loads('{{') — JSONDecodeError" in message


def test_an_error_in_a_helper_names_the_line_of_the_helper(tmp_path):
    helper = write(tmp_path, "def f():\n    return 1 / 0\n", "helper.py")
    message = failure(write(tmp_path, "import helper\nhelper.f()\n"))
    assert f"{helper}:2: return 1 / 0 — ZeroDivisionError: division by zero" in message


@pytest.mark.parametrize("name", ["my_router.py", "helper.py"])
def test_a_syntax_error_names_its_line(tmp_path, name):
    write(tmp_path, "import helper\n")
    file = write(tmp_path, "x = 1\ny = (\n", name)
    message = failure(tmp_path / "my_router.py")
    assert f"{file}:2: y = ( — SyntaxError: " in message


def test_a_plugin_that_exits_is_a_failure_too(tmp_path):
    message = failure(write(tmp_path, "import sys\nsys.exit('needs a licence')\n"))
    assert "sys.exit('needs a licence') — SystemExit: needs a licence" in message


def test_a_taken_name_is_refused_with_the_line_of_the_plugin(tmp_path):
    file = write(tmp_path, PLUGIN.format(name="soft_moe"))
    message = failure(file)
    assert f"{file}:5: " in message
    assert "router 'soft_moe' is registered already, by" in message


def test_a_plugin_that_registers_nothing_is_refused(tmp_path):
    assert "registers nothing" in failure(write(tmp_path, "x = 1\n"))


def test_a_failed_plugin_leaves_nothing_behind_and_works_once_fixed(tmp_path):
    before, modules = list_routers(), set(sys.modules)
    write(tmp_path, PLUGIN.format(name="helpers"), "helper.py")
    text = "import helper\n" + PLUGIN.format(name="mine")
    file = write(tmp_path, text + "\nraise ValueError('too late')\n")
    assert "ValueError: too late" in failure(file)
    assert list_routers() == before
    assert not [name for name in set(sys.modules) - modules if "plugins_" in name and "." in name]
    file.write_text(text)
    load_plugin(file)
    assert list_routers() == [*before, "helpers", "mine"]


def test_registrations_by_outside_modules_survive_a_plugins_failure(tmp_path, monkeypatch):
    """A failing plugin that is the first to import a library must not empty its registry."""
    monkeypatch.syspath_prepend(tmp_path / "installed")
    write(tmp_path / "installed", PLUGIN.format(name="of_library"), "entry_point_library.py")
    failure(write(tmp_path, "import entry_point_library\nraise ValueError\n"))
    assert "of_library" in list_routers()


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("my_roter.py", "did you mean 'my_router.py'?"),
        ("missing/my_router.py", "there is no folder"),
        ("", "is a folder; name the Python file; available: my_router.py"),
    ],
)
def test_a_missing_file_is_refused_with_the_nearest_name(tmp_path, asked, hint):
    write(tmp_path, PLUGIN.format(name="mine"))
    assert hint in failure(tmp_path / asked)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install modules, each as a distribution with an entry point of its own name."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(module: str, text: str) -> None:
        write(tmp_path, text, f"{module}.py")
        info = tmp_path / f"{module}-1.0.dist-info"
        write(info, f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", "METADATA")
        points = f"[moe_router_bench.routers]\n{module} = {module}\n"
        write(info, points, "entry_points.txt")

    return install


def test_entry_points_are_loaded_and_broken_ones_are_reported(installed):
    installed("entry_point_broken", PLUGIN.format(name="lost") + "\nraise ValueError('oh')\n")
    installed("entry_point_empty", "")
    installed("entry_point_good", PLUGIN.format(name="good"))
    for _ in range(2):
        failures = load_entry_points()
        messages = {failure.name: failure.message for failure in failures}
        assert messages.keys() == {"entry_point_broken", "entry_point_empty"}
        assert "raise ValueError('oh') — ValueError: oh" in messages["entry_point_broken"]
        assert "registers nothing" in messages["entry_point_empty"]
        assert "good" in list_routers()
        assert "lost" not in list_routers()
