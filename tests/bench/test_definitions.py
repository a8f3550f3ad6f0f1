"""The digest of code: what changes it, what does not, and how names are resolved."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from bench.model.build import TRANSFORMS
from bench.plan.definitions import NO_NUMBERS, Code, Definitions
from bench.plan.registration import REGISTRIES

Tree = Callable[[dict[str, str]], Code]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Add files to a copy of the repository; return what `routers.one.One` depends on."""

    def make(files: dict[str, str]) -> Code:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        definitions = Definitions(tmp_path, frozenset({"routers.quiet"}))
        return definitions.code(definitions.of("routers.one", "One"))

    return make


def names(code: Code) -> set[str]:
    return {name for name, _ in code.digests}


FILES = {
    "routers/__init__.py": "from routers.base import Base\nfrom routers import one, two\n",
    "routers/base.py": "from .tools import helper\nclass Base:\n    x = helper()\n",
    "routers/tools.py": "def helper(): return LEVEL\nLEVEL = 1\ndef unused(): return 2\n",
    "routers/one.py": "import math\nfrom routers import Base\nclass One(Base): ...\n",
    "routers/two.py": "from routers.base import Base\nclass Two(Base): ...\n",
    "routers/quiet.py": "def say(text): return text\n",
}


def test_a_name_is_followed_through_a_package_to_its_definition(tree: Tree) -> None:
    assert names(tree(FILES)) == {"One", "Base", "helper", "LEVEL"}


@pytest.mark.parametrize(
    "text",
    [
        "def helper(): return LEVEL  # one\nLEVEL = 1\n",
        'def helper():\n    """It is one."""\n    return LEVEL\nLEVEL = 1\n',
        '"""Tools."""\n\n\nLEVEL: int = 1\n\n\ndef helper() -> int:\n    return (LEVEL)\n',
        "def helper():\n    print('level')\n    return LEVEL\nLEVEL = 1\n",
        "def helper():\n    from routers.two import LEVEL as level\n    return level\n",
        "from routers import two\ndef helper(): return two.LEVEL\n",
        "def unused(): return 3\ndef helper(): return LEVEL\nLEVEL = 1\n",
    ],
)
def test_layout_texts_and_the_position_of_a_definition_do_not_change_the_digest(
    tree: Tree, text: str
) -> None:
    before = tree(FILES)
    assert tree({"routers/tools.py": text, "routers/two.py": "LEVEL = 1\n"}) == before


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("def helper(): return LEVEL\nLEVEL = 2\n", {"LEVEL"}),
        ("def helper(): return -LEVEL\nLEVEL = 1\n", {"helper"}),
        ("from math import pi as LEVEL\ndef helper(): return LEVEL\n", {"helper", "LEVEL"}),
        ("def helper(x=1): return LEVEL\nLEVEL = 1\n", {"helper"}),
    ],
)
def test_code_changes_the_digest_wherever_it_is_imported_from(
    tree: Tree, text: str, changed: set[str]
) -> None:
    before = tree(FILES)
    after = tree({"routers/tools.py": text})
    assert {name for name, _ in before.digests ^ after.digests} == changed


@pytest.mark.parametrize("word", ["old", "new"])
@pytest.mark.parametrize(
    "statement",
    [
        "raise ValueError(f'the {{self}} is {word}')",
        "raise ValueError('{word}') from None",
        "error = ValueError('{word}')",
        "warnings.warn('{word}', stacklevel=2)",
        "logging.getLogger().info('x')\n        logging.info('{word}')",
        "return say_nothing",
    ],
)
def test_texts_of_messages_do_not_change_the_digest(tree: Tree, statement: str, word: str) -> None:
    body = f"import logging, warnings\nclass One:\n    def f(self):\n        {statement}\n"
    said = tree(FILES | {"routers/one.py": body.replace("{word}", "any")})
    assert tree({"routers/one.py": body.replace("{word}", word)}) == said
    other = body.replace("def f(self)", "def f(self, n=0)")
    assert tree({"routers/one.py": other.replace("{word}", word)}) != said


def test_the_default_of_a_setting_changes_the_digest_but_its_description_does_not(
    tree: Tree,
) -> None:
    text = "from routers.hyper import hyper\nclass One:\n    x: float = hyper({}, {}, tune={})\n"

    def code(*values: str) -> Code:
        return tree(FILES | {"routers/one.py": text.format(*values)})

    assert code("1.0", "'one'", "None") == code("1.0", "'other'", "(1, 2)")
    assert code("1.0", "'one'", "None") != code("2.0", "'one'", "None")


def test_the_annotation_of_a_field_changes_the_digest(tree: Tree) -> None:
    before = tree(FILES | {"routers/one.py": "class One:\n    x: int = 1\n"})
    assert tree({"routers/one.py": "class One:\n    x: float = 1\n"}) != before


def test_the_class_named_by_an_annotation_is_followed(tree: Tree) -> None:
    text = "from routers.base import Base\nclass One:\n    def f(self, base: Base): return base.x\n"
    assert names(tree(FILES | {"routers/one.py": text})) >= {"One", "Base", "helper"}


def test_a_local_variable_shadows_a_definition_of_its_name(tree: Tree) -> None:
    text = "from routers.base import Base\nclass One:\n    def f(self, Base): return Base\n"
    assert names(tree(FILES | {"routers/one.py": text})) == {"One"}


def test_a_module_passed_as_a_value_counts_as_a_whole(tree: Tree) -> None:
    text = "from routers import tools\nclass One:\n    x = vars(tools)\n"
    assert names(tree(FILES | {"routers/one.py": text})) == {"One", "helper", "unused", "LEVEL"}


def test_module_level_statements_count_with_the_names_that_they_change(tree: Tree) -> None:
    before = tree(FILES)
    table = "import math\nfrom routers import Base\nclass One(Base): ...\nTABLE = {}\n"
    assert tree({"routers/one.py": table}) == before
    assert tree({"routers/one.py": f"{table}TABLE['x'] = 1\n"}) != before
    assert tree({"routers/one.py": f"{table}register(One)\n"}) == before
    loop = "for name in ('x', 'y'):\n    TABLE[name] = 1\n"
    assert tree({"routers/one.py": table + loop}) != before


def test_a_registered_buffer_changes_the_digest(tree: Tree) -> None:
    text = "class One:\n    def __init__(self):\n        self.register_buffer('x', {})\n"
    before = tree(FILES | {"routers/one.py": text.format(1)})
    assert tree({"routers/one.py": text.format(2)}) != before


def test_annotations_of_functions_do_not_change_the_digest(tree: Tree) -> None:
    text = "from routers.base import Base\nclass One(Base):\n    def f(self, x{}): return x\n"
    before = tree(FILES | {"routers/one.py": text.format("")})
    assert tree({"routers/one.py": text.format(": Base")}) == before


def test_it_matters_which_of_two_definitions_a_name_refers_to(tree: Tree) -> None:
    files = FILES | {
        "routers/a.py": "def f(): return 1\n",
        "routers/b.py": "def f(): return 2\n",
        "routers/one.py": "from routers import x, y\nclass One:\n    f, g = x.use, y.use_too\n",
    }
    uses = "from routers.{} import f\ndef use(): return f()\n"
    too = uses.replace("use", "use_too")
    one = tree(files | {"routers/x.py": uses.format("a"), "routers/y.py": too.format("b")})
    two = tree({"routers/x.py": uses.format("b"), "routers/y.py": too.format("a")})
    assert one.digests == two.digests
    assert sorted(one.lines) != sorted(two.lines)


def test_modules_listed_as_changing_no_number_are_not_followed(tree: Tree) -> None:
    text = "from routers.quiet import say\nclass One:\n    x = say('x')\n"
    before = tree(FILES | {"routers/one.py": text})
    assert tree({"routers/quiet.py": "def say(text): return text.upper()\n"}) == before


def test_modules_that_are_not_followed_exist_and_define_no_component() -> None:
    kinds = (*REGISTRIES.values(), TRANSFORMS)
    homes = {entry.target.__module__ for registry in kinds for entry in registry.entries()}
    for module in NO_NUMBERS:
        assert find_spec(module), module
        assert module not in homes


def test_a_missing_definition_is_an_error() -> None:
    with pytest.raises(LookupError, match=r"routers\.gone"):
        Definitions().of("routers.gone", "Gone")
