"""A check of experts that name the option by which compute is matched."""

from __future__ import annotations

from dataclasses import replace

from bench.check.compare import require
from bench.check.experts import Subject
from bench.check.outcome import NotApplicable

WIDTHS = (1, 2, 3, 8)


def grows(subject: Subject) -> str:
    """Their `width`, by which compute is matched, gives experts more parameters unit by unit."""
    name = subject.entry.target.width
    if name is None:
        raise NotApplicable("they name no width")
    known = subject.entry.hyper_model.model_fields
    require(name in known, f"width = {name!r} is none of their hyper-parameters")
    sizes = []
    for width in WIDTHS:
        wide = replace(subject, options={**subject.options, name: width})
        sizes.append(sum(parameter.numel() for parameter in wide.build().parameters()))
    told = ", ".join(f"{size:,}" for size in sizes)
    require(sizes == sorted(set(sizes)), f"parameters at {name} = 1, 2, 3, 8: {told}")
    return f"{name} = 1 to 8: {sizes[0]:,} to {sizes[-1]:,} parameters"
