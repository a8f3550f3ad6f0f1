"""Components as lists and cards on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from bench.cli.words import show, table
from routers import Card, Choice, Entry, Range, Registry


def print_components(registries: Iterable[Registry]) -> None:
    """Name and summary of each component, by kind and family."""
    for registry in registries:
        families: dict[str, list[Card]] = {}
        for entry in registry.entries():
            families.setdefault(entry.family, []).append(entry.card())
        for family, cards in families.items():
            kind = "" if registry.kind == "router" else f"{registry.kind}: "
            print(f"\n{kind}{family.replace('_', ' ')}")
            for card in cards:
                show(Text(f"  {card.name}", "bold"))
                show(_indented(card.summary))
    print("\n`python bench.py show NAME` shows a component's card.")


def print_card(entry: Entry) -> None:
    """Print all that is known of a component; of a suite also what it measures."""
    card = entry.card()
    show(Text(card.name, "bold"))
    show(
        _indented(
            f"{card.kind}; {card.family.replace('_', ' ')}; {card.source or 'no source given'}"
        )
    )
    print()
    show(Text("\n\n".join(filter(None, (card.summary, _flowing(card.text))))))
    if card.hyper:
        print()
        made = table("hyper-parameter", "type", "default", "tuned over", "meaning")
        for info in card.hyper:
            made.add_row(info.name, info.type, str(info.default), _range(info.tune), info.meaning)
        show(made)
    metrics = getattr(entry.target, "metrics", ())
    if metrics:
        print()
        made = table("metric", "unit", "better", "meaning")
        for metric in metrics:
            made.add_row(metric.name, metric.unit, metric.better or "", metric.meaning)
        show(made)
    if card.bibtex:
        print(f"\n{card.bibtex.strip()}")
    print(f"\n{card.file}")


def _indented(text: str) -> Text:
    return Text(f"    {text}", no_wrap=False)


def _flowing(text: str) -> str:
    """Lines of a docstring joined to paragraphs; indented ones stay as they are."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(p if p.startswith(" ") else " ".join(p.split()) for p in paragraphs)


def _range(tune: Range | Choice | None) -> str:
    if tune is None:
        return ""
    if isinstance(tune, Choice):
        return ", ".join(map(str, tune.options))
    return f"{tune.low:g} … {tune.high:g}{' (log)' if tune.log else ''}"
