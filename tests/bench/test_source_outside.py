"""Sources outside this repository that a trial depends on: plugins, their helpers, weights."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from bench.config.presets import load_preset
from bench.config.schema import TrialSpec
from bench.model import origin
from bench.model.origin import defining_files
from bench.plan.expand import trial_specs
from bench.plan.fingerprint import Fingerprints, differences
from bench.plan.user_code import user_sources
from results.store.records import ComponentRef, TrialRecord
from routers import ROUTERS, load_plugin
from routers.registry import Registry

MODEL = """
from timm.models import register_model
from {helper} import Net
from routers import register_loss

@register_model
def {name}(pretrained=False, **options):
    return Net(**options)

@register_loss("{name}")
def loss(routing, batch):
    return routing.gates.sum()
"""
NET = "from timm.models.vision_transformer import VisionTransformer as Net\nDEPTH = {depth}\n"


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    before = {registry: registry.names() for registry in Registry.instances}
    yield
    for registry in Registry.instances:
        for name in set(registry.names()) - set(before.get(registry, registry.names())):
            registry.discard(name)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that modules are imported from, like one on PYTHONPATH."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def source_hashes(files: list[Path]) -> dict[str, str]:
    """Return the digest of each of the user's modules, by name."""
    return {source.module: source.digest for source in user_sources(files).values()}


def write(file: Path, text: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def spec_of(model: str, **model_changes: str) -> TrialSpec:
    spec = next(s for s in trial_specs(load_preset("smoke")) if s.router.name == "dense")
    changes = {"name": model, **model_changes}
    return spec.model_copy(update={"model": spec.model.model_copy(update=changes)})


def values(spec: TrialSpec) -> tuple[str, str]:
    """Return the fingerprints of the trained model, and of the untrained one that is timed."""
    now = Fingerprints()
    return now.trial(spec, lambda _: "data").value, now.layer(spec).value


@pytest.mark.parametrize("where", ["plugin", "path"])
@pytest.mark.slow
def test_the_model_of_a_plugin_depends_on_the_class_that_it_builds(
    where: str, tmp_path: Path, path: Path
) -> None:
    helper, name = f"outside_{where}_net", f"outside_{where}_model"
    file = write(tmp_path / where / f"{helper}.py", NET.format(depth=2))
    load_plugin(write(tmp_path / "plugin" / "mine.py", MODEL.format(helper=helper, name=name)))
    own, other = values(spec_of(name)), values(spec_of("vit_tiny_patch16_224"))
    write(file, "# Deeper.\n" + NET.format(depth=2))
    assert values(spec_of(name)) == own
    write(file, NET.format(depth=4))
    assert not set(values(spec_of(name))) & set(own)
    assert values(spec_of("vit_tiny_patch16_224")) == other


def record_of(spec: TrialSpec) -> TrialRecord:
    """Return the trial as it is stored."""
    now = Fingerprints().trial(spec, lambda _: "data")
    parts = tuple(ComponentRef(part.kind, part.name, part.digest) for part in now.parts)
    return TrialRecord(1, now.value, now.description, parts)


def changes(then: TrialRecord, spec: TrialSpec) -> list[str]:
    return differences(Fingerprints().trial(spec, lambda _: "data"), then)


@pytest.mark.slow
def test_the_reason_to_retrain_names_the_changed_model(tmp_path: Path) -> None:
    name = "outside_named_model"
    helper = write(tmp_path / "net.py", NET.format(depth=2))
    load_plugin(write(tmp_path / "mine.py", MODEL.format(helper="net", name=name)))
    then = record_of(spec_of(name))
    assert changes(then, spec_of(name)) == []
    write(helper, NET.format(depth=4))
    assert changes(then, spec_of(name)) == [f"changed source: model '{name}'"]


def test_the_router_of_a_plugin_depends_on_what_it_uses_from_this_repository(
    tmp_path: Path,
) -> None:
    text = """
import routers
from routers import TokenChoiceRouting as Choice
from helper import scale

@routers.register_router("outside_router", family="token_choice")
class Mine(routers.Router):
    def allocate(self, logits):
        return Choice.top_k(scale(logits).softmax(-1), k=1, capacity=self.capacity(logits))
"""
    write(tmp_path / "helper.py", "def scale(logits): return logits\n")
    load_plugin(write(tmp_path / "mine.py", text))
    part = Fingerprints().component(ROUTERS.get("outside_router"))
    assert {"mine", "helper", "Router", "TokenChoiceRouting"} <= part.definitions.keys()
    assert not {"SoftMoE", "SoftRouting", "SoftmaxTokenChoice"} & part.definitions.keys()


def test_an_installed_model_depends_on_the_version_of_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = spec_of("vit_tiny_patch16_224")
    then = record_of(spec)
    monkeypatch.setattr(origin, "version", lambda name: "0.0")
    assert changes(then, spec) == ["changed source: model 'vit_tiny_patch16_224'"]


def test_the_digest_of_an_installed_model_does_not_depend_on_importing_timm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import timm

    names = ("vit_tiny_patch16_224", "image_classifier")
    imported = [origin.model_origin(name) for name in names]
    monkeypatch.delitem(sys.modules, "timm")
    assert [origin.model_origin(name) for name in names] == imported
    assert imported == [({"timm": timm.__version__}, [])] * 2


def test_the_reason_to_retrain_names_the_changed_weights_file(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old.pth", "one"), write(tmp_path / "new.pth", "two")
    then = record_of(spec_of("vit_tiny_patch16_224", weights=str(old)))
    changed = changes(then, spec_of("vit_tiny_patch16_224", weights=str(new)))
    assert changed == [f"changed content of the weights file: '{new}'"]


def test_a_module_on_the_path_counts_with_everything_it_imports(tmp_path: Path, path: Path) -> None:
    plugin = write(tmp_path / "mine" / "mine.py", "import json, torch\nimport outside_a.inner\n")
    write(path / "outside_a" / "__init__.py", "from outside_b import thing\n")
    write(path / "outside_a" / "inner.py", "from . import near\nfrom .random import x\n")
    write(path / "outside_a" / "near.py")
    write(path / "outside_a" / "random.py")
    write(path / "outside_b.py")
    write(path / "outside_unrelated.py")
    inner = {"outside_a", "outside_a.inner", "outside_a.near", "outside_a.random"}
    assert set(source_hashes([plugin])) == {"mine", "outside_b", *inner}


def test_modules_of_installed_distributions_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(folder)
    write(folder / "outside_installed.py")
    plugin = write(tmp_path / "mine" / "mine.py", "import outside_installed\n")
    assert set(source_hashes([plugin])) == {"mine"}


def test_two_modules_of_the_same_name_in_different_folders_both_count(
    tmp_path: Path, path: Path
) -> None:
    plugin = write(tmp_path / "mine" / "mine.py", "from . import helper\nimport outside_user\n")
    both = [write(tmp_path / "mine" / "helper.py"), write(path / "helper.py")]
    write(path / "outside_user.py", "import helper\n")
    seen = []
    for number, file in enumerate((*both, plugin)):
        sources = user_sources([plugin])
        assert sorted(source.module for source in sources.values()) == [
            *("helper", "helper", "mine", "outside_user")
        ]
        seen.append({source.digest for source in sources.values()})
        write(file, f"x = {number}")
    assert seen[0] != seen[1] != seen[2]


def test_the_name_and_location_of_a_file_do_not_count(tmp_path: Path) -> None:
    text = "from routers import Router\nx = 1\n"
    files = [write(tmp_path / name, text) for name in ("a/mine.py", "b/deeper/other.py")]
    first, second = (user_sources([file])[file] for file in files)
    assert first.digest == second.digest


@pytest.mark.parametrize("statement", ["from .helper import x", "from . import helper"])
def test_a_relative_import_next_to_a_plugin_counts(statement: str, tmp_path: Path) -> None:
    write(tmp_path / "helper.py")
    assert set(source_hashes([write(tmp_path / "mine.py", statement)])) == {"mine", "helper"}


def test_a_compiled_module_counts_by_its_bytes(tmp_path: Path, path: Path) -> None:
    compiled = write(path / f"outside_compiled{EXTENSION_SUFFIXES[0]}", "one")
    plugin = write(tmp_path / "mine" / "mine.py", "from outside_compiled import kernel\n")
    before = source_hashes([plugin])
    write(compiled, "two")
    after = source_hashes([plugin])
    assert len(before) == 2
    assert len({*before.items()} ^ {*after.items()}) == 2


def test_a_helper_that_is_not_python_counts_by_its_text(tmp_path: Path) -> None:
    plugin = write(tmp_path / "mine.py", "try: import helper\nexcept SyntaxError: pass\n")
    write(tmp_path / "helper.py", "print 1")
    before = source_hashes([plugin])
    write(tmp_path / "helper.py", "print 2")
    assert source_hashes([plugin]) != before


def test_a_decorated_function_counts_with_its_own_file(tmp_path: Path) -> None:
    write(
        tmp_path / "helper.py",
        "import functools\ndef twice(function):\n    @functools.wraps(function)\n"
        "    def run(routing): return 2 * function(routing)\n    return run\n",
    )
    plugin = write(
        tmp_path / "mine.py",
        "from helper import twice\nfrom routers import register_loss\n"
        '@register_loss("outside_twice")\n@twice\ndef loss(routing): ...\n',
    )
    loss: Callable[..., object] = load_plugin(plugin).loss
    assert defining_files(loss) == [tmp_path / "helper.py", plugin]
