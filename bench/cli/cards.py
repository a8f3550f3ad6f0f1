"""Components as lists and cards on a terminal, and a router file to start from."""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Iterable
from pathlib import Path

from rich.text import Text

from bench.cli.display import print_table, table
from routers import ROUTERS, Choice, Entry, Range, Registry, RequestError


def print_components(registries: Iterable[Registry]) -> None:
    """Print the name and summary of each component, by kind and family."""
    for registry in registries:
        families: dict[str, list[Entry]] = {}
        for entry in registry.entries():
            families.setdefault(entry.family, []).append(entry)
        for family, cards in families.items():
            kind = "" if registry.kind == "router" else f"{registry.kind}: "
            print(f"\n{kind}{family.replace('_', ' ')}")
            for card in cards:
                print_table(Text(f"  {card.name}", "bold"))
                print_table(_indented(card.summary))
    print("\n`python bench.py show NAME` shows a component's card.")


def print_card(card: Entry) -> None:
    """Print all that is known of a component; of a suite also what it measures."""
    print_table(Text(card.name, "bold"))
    print_table(
        _indented(
            f"{card.kind}; {card.family.replace('_', ' ')}; {card.source or 'no source given'}"
        )
    )
    print()
    print_table(Text("\n\n".join(filter(None, (card.summary, _flowing(card.text))))))
    if card.hyper:
        print()
        made = table("hyper-parameter", "type", "default", "tuned over", "meaning")
        for info in card.hyper:
            made.add_row(info.name, info.type, str(info.default), _range(info.tune), info.meaning)
        print_table(made)
    metrics = getattr(card.target, "metrics", ())
    if metrics:
        print()
        made = table("metric", "unit", "better", "meaning")
        for metric in metrics:
            made.add_row(metric.name, metric.unit, metric.better or "", metric.meaning)
        print_table(made)
    if card.bibtex:
        print(f"\n{card.bibtex.strip()}")
    print(f"\n{card.file}")


def _indented(text: str) -> Text:
    return Text(f"    {text}", no_wrap=False)


def _flowing(text: str) -> str:
    """Return the lines of a docstring joined to paragraphs; indented ones stay as they are."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(p if p.startswith(" ") else " ".join(p.split()) for p in paragraphs)


def _range(tune: Range | Choice | None) -> str:
    if tune is None:
        return ""
    if isinstance(tune, Choice):
        return ", ".join(map(str, tune.options))
    return f"{tune.low:g} … {tune.high:g}{' (log)' if tune.log else ''}"


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
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # lists need none of it

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
    """Return the nearest name that a router can have."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name.removesuffix(".py"))
    words = re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")
    if not words or not words[0].isalpha() or keyword.iskeyword(words):
        words = f"router_{words}".strip("_")
    return f"my_{words}" if words in ROUTERS.names() or importlib.util.find_spec(words) else words
