"""A router file to start from, with its test: complete, and right as it stands."""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from routers import ROUTERS, RequestError

TEMPLATES = Path(__file__).parent / "templates"


def write_router(name: str, folder: Path) -> tuple[Path, Path]:
    """Write `NAME.py` and `test_NAME.py` into a folder.

    Args:
        name: of the router, lower-case words joined by underscores.
        folder: an existing folder.

    Returns:
        The router's file and the test's.

    Raises:
        RequestError: a name that cannot be one, or is taken; a file that is there already. Nothing
            has been written then.
    """
    _refuse_word(name)
    files = folder / f"{name}.py", folder / f"test_{name}.py"
    for file in files:
        if file.exists():
            raise RequestError(f"{file} exists already; choose another name, or move it away")
    _refuse_taken(name)
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
    )
    class_name = "".join(word.capitalize() for word in name.split("_"))
    for file, template in zip(files, ("router.py.jinja", "test_router.py.jinja"), strict=True):
        text = templates.get_template(template).render(name=name, class_name=class_name)
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise RequestError(f"cannot write {file}: {error.strerror}") from error
    return files


def _refuse_word(name: str) -> None:
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise RequestError(
            f"{name!r} cannot name a router: a name is lower-case letters, digits and underscores, "
            f"a letter first, and no word of Python; {_valid(name)!r} would do"
        )


def _refuse_taken(name: str) -> None:
    if name in ROUTERS.names():
        raise RequestError(f"there is a router {name!r} already; {_valid(f'my_{name}')!r} would do")
    if importlib.util.find_spec(name) is not None:
        raise RequestError(
            f"{name!r} is the name of a Python module, which the file {name}.py would hide; "
            f"{_valid(f'{name}_router')!r} would do"
        )


def _valid(name: str) -> str:
    """The nearest name that a router can have."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name.removesuffix(".py"))
    words = re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")
    if not words or not words[0].isalpha() or keyword.iskeyword(words):
        words = f"router_{words}".strip("_")
    return f"my_{words}" if words in ROUTERS.names() or importlib.util.find_spec(words) else words
