"""`doctor --device`: what a device computes and how fast, as a Markdown report to publish.

The report names no host, user or path. With `cpu` it needs no GPU and compares the CPU with itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import typer

from bench.cli.context import Place
from bench.cli.display import duration, size

if TYPE_CHECKING:
    import torch

    from bench.check import Agreement, Effort, Speed

DeviceName = Literal["cpu", "cuda"]
LIMIT = 280.0
"""Seconds after which no further timing starts."""
WIDTHS: dict[bool, dict[str, int]] = {
    False: {"dim": 96, "num_experts": 8, "tokens": 49, "groups": 8},
    True: {"dim": 8, "num_experts": 4, "tokens": 16, "groups": 3},
}
"""Sizes of the layers that are compared, by whether the run is quick."""


@dataclass(frozen=True)
class DeviceReport:
    """The findings on a device.

    Attributes:
        about: the device, libraries and code, by name.
        speeds: by the heading of their table, without those that did not fit in the time.
        left_out: number of timings that did not fit in the time.
        seconds: duration of the whole examination.
        quick: whether shapes were small, so that the times mean nothing.
    """

    device: DeviceName
    about: dict[str, str]
    agreements: list[Agreement]
    speeds: dict[str, list[Speed]]
    left_out: int
    seconds: float
    quick: bool

    @property
    def faults(self) -> list[str]:
        """What is not as it should be, one sentence each."""
        compared = [f"{each.name}: {fault}" for each in self.agreements for fault in each.faults]
        timed = [
            f"{each.name}, {heading}: {each.error}"
            for heading, speeds in self.speeds.items()
            for each in speeds
            if each.error
        ]
        return compared + timed


def doctor_device(place: Place, name: DeviceName, quick: bool, out: Path | None) -> None:
    """Examine a device and write the report; the exit status is 1 if something is wrong.

    Raises:
        RequestError: torch sees no such device.
    """
    import torch

    from routers import RequestError

    if name == "cuda" and not torch.cuda.is_available():
        raise RequestError(
            f"--device cuda: torch {torch.__version__} sees no CUDA device here; "
            "`python bench.py doctor` says why, and --device cpu runs the same examination on the "
            "CPU"
        )
    usual = f"device-{name}.md"
    file = out or place.home / usual
    if file.is_dir():
        raise RequestError(f"--out {file} is a folder; name a file in it, such as {file / usual}")
    file.parent.mkdir(parents=True, exist_ok=True)
    place.load()
    report = examine(name, quick, lambda line: print(line, file=sys.stderr))
    file.write_text(markdown(report), encoding="utf-8")
    for fault in report.faults:
        print(fault)
    print(f"{summary(report)}\n{file}")
    if report.faults:
        raise typer.Exit(1)


def examine(name: DeviceName, quick: bool, emit: Callable[[str], object]) -> DeviceReport:
    """Compare and time everything on a device, in about five minutes on a GPU.

    Args:
        emit: takes a line of progress.
    """
    import torch

    from bench.check import QUICK, WHOLE, agreement, routers_to_compare

    device, began = torch.device(name), perf_counter()
    agreements = []
    for router in routers_to_compare():
        emit(f"comparing {router}")
        agreements.append(agreement(router, device, **WIDTHS[quick]))
    speeds: dict[str, list[Speed]] = {}
    left_out = 0
    for heading, label, measure in _timings(device, QUICK if quick else WHOLE):
        if perf_counter() - began > LIMIT:
            left_out += 1
            continue
        emit(f"timing {label}")
        speeds.setdefault(heading, []).append(measure())
    about = about_device(device)
    seconds = perf_counter() - began
    return DeviceReport(name, about, agreements, speeds, left_out, seconds, quick)


def _timings(
    device: torch.device, effort: Effort
) -> Iterable[tuple[str, str, Callable[[], Speed]]]:
    """Yield each timing: the heading of its table, its name, and a function that takes it."""
    from functools import partial

    from bench.check import DENSE, MODELS, layer_speed, model_speed, routers_to_compare

    # The models first: they are few, and the limit must not cut them off.
    for half in (True, False):
        for name in MODELS:
            measure = partial(model_speed, name, device, half, effort)
            yield "ViT-B/16", f"ViT-B/16 with {name}", measure
    for half in (False, True):
        for shape, (images, tokens, dim, hidden) in effort.shapes.items():
            heading = f"Shape {shape}: {images} × {tokens} tokens, width {dim}, hidden {hidden}"
            for name in (DENSE, *routers_to_compare()):
                layer = partial(layer_speed, name, shape, device, half, effort)
                yield heading, f"{name} at shape {shape}", layer


def about_device(device: torch.device) -> dict[str, str]:
    """Describe the device, the libraries and the code, without naming a host or a path."""
    import torch

    from bench.environment import code_version, machine

    made, code = machine(), code_version()
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    commit = f"{code.commit or 'unknown'}{', with changes' if code.dirty else ''}"
    return {
        "device": f"{gpu.name}, {size(gpu.total_memory)}" if gpu else f"CPU, {made.processor}",
        "processor": f"{made.processor}, {made.cores} cores, {made.threads} threads of torch",
        "driver": made.driver or "none",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}",
        "python": code.python,
        "float32 products": str(made.settings["float32_matmul_precision"]),
        "commit": commit,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def summary(report: DeviceReport) -> str:
    """Return the findings in one sentence."""
    whole = len(report.agreements)
    equal = sum(each.equal for each in report.agreements)
    repeatable = sum(each.repeatable for each in report.agreements)
    waiting = [each.waits for each in report.agreements if each.waits is not None]
    waits = f"; {sum(waiting)} wait for the device" if waiting else ""
    return (
        f"{equal} of {whole} routers give the CPU's results, {repeatable} give the same bits "
        f"twice{waits}; {duration(report.seconds)}."
    )


def markdown(report: DeviceReport) -> str:
    """Return the report as Markdown."""
    from bench.check import EQUAL, HALF_BOUNDS

    lines = [f"# Routers on {report.about['device']}", "", summary(report), ""]
    if report.device == "cpu":
        lines += ["This is the CPU, compared with itself: it says nothing about a GPU.", ""]
    if report.quick:
        lines += ["This is a quick run at small shapes: its times mean nothing.", ""]
    lines += _table(["", ""], [[name, text] for name, text in report.about.items()])
    if report.faults:
        lines += ["## What is wrong", "", *(f"- {fault}" for fault in report.faults), ""]
    lines += [
        "## Results against the CPU",
        "",
        f"Errors of a layer's output and gradients, relative to the norm on the CPU, in float32; "
        f"up to {EQUAL:g} they count as equal. Moved: token-expert pairs that only one of the "
        "devices selects. Bits: whether a second training pass gives the same bits. "
        "bfloat16: autocast against float32 on the device; up to "
        f"{HALF_BOUNDS[0]:.3g} and {HALF_BOUNDS[1]:.3g} is expected. "
        "Waits: whether the host waits for the device in a forward pass.",
        "",
    ]
    head = ["router", "output", "gradient", "moved", "training", "bits", "bfloat16", "waits"]
    lines += _table(head, map(_compared, report.agreements))
    lines += ["## Speed", "", _how_timed(report), ""]
    for heading, speeds in report.speeds.items():
        unit = "images" if heading.startswith("ViT") else "tokens"
        head = ["", "precision", "forward ms", "training ms", f"{unit} / s", "peak memory"]
        lines += [f"### {heading}", "", *_table(head, map(_timed, speeds))]
    return "\n".join(lines)


def _how_timed(report: DeviceReport) -> str:
    clock = "by the device's own events" if report.device == "cuda" else "by the host's clock"
    left = f" {report.left_out} timings did not fit in the time." if report.left_out else ""
    return (
        f"Medians, {clock}; 8 experts with default settings, untrained. Training: forward and "
        "backward pass; rate and peak memory (above the weights) are those of training. `dense` is "
        f"an MLP of one expert's shape, or the model without experts.{left}"
    )


def _compared(each: Agreement) -> list[str]:
    if each.error:
        return [each.name, "failed", *[""] * 6]
    waits = "" if each.waits is None else "yes" if each.waits else "no"
    return [
        each.name,
        f"{each.output:.1e}",
        f"{each.gradient:.1e}",
        str(each.moved),
        "compared" if each.in_training else "draws at random",
        "same" if each.repeatable else "differ",
        " / ".join(f"{value:.1e}" for value in each.half),
        f"{waits}{': ' if waits and each.declared else ''}{each.declared}",
    ]


def _timed(each: Speed) -> list[str]:
    if each.error:
        return [each.name, each.precision, "failed", "", "", ""]
    memory = "" if each.memory is None else size(each.memory)
    times = [f"{value:.3g}" for value in (each.forward_ms, each.train_ms)]
    return [each.name, each.precision, *times, f"{each.rate:,.0f}", memory]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return [*lines, ""]
