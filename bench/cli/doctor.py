"""`doctor`: one finding for each thing that a run needs, and how to fix it.

Nothing that might itself be broken is imported at the top.
"""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from bench.cli.context import Place
from bench.cli.display import print_table, table
from bench.cli.doctor_device import DeviceName, doctor_device

Status = Literal["ok", "warn", "fail"]
STYLES: dict[Status, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}
GIGABYTE = 10**9
ENOUGH_DISK = 5 * GIGABYTE
ENOUGH_MEMORY = 2 * GIGABYTE


@dataclass(frozen=True)
class Finding:
    """The result of one examination.

    Attributes:
        status: "fail" if a run would not work, "warn" if it would work badly.
        mend: what to do; empty if nothing needs to be done.
    """

    status: Status
    detail: str
    mend: str = ""


Device = Annotated[
    DeviceName | None,
    typer.Option(
        help="Compare every router on this device with the CPU, time it, and write a report.",
        show_default="none",
    ),
]
Quick = Annotated[
    bool, typer.Option("--quick", help="With --device: small shapes; the times mean nothing.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="With --device: the file of the report.",
        show_default="device-NAME.md in the home folder",
    ),
]


def doctor(place: Place, device: Device = None, quick: Quick = False, out: Out = None) -> None:
    """Check what a run needs on this machine, and say how to fix what is missing.

    Checks torch, device, data, database, disk and plugins. The exit status is 1 if a run would not
    work. With --device it examines a device instead: whether every router computes there what it
    computes on the CPU, gives the same result twice, how fast, and in how much memory. It takes 5
    minutes on a GPU.

    \b
    Examples:
      python bench.py doctor
      python bench.py doctor --device cuda --out gpu.md
    """
    if device is not None:
        doctor_device(place, device, quick, out)
        return
    if quick or out is not None:
        raise typer.BadParameter("--quick and --out belong to --device")
    findings = diagnose(place.home, place.database, place.plugins)
    print_table(render(findings))
    if any(finding.status == "fail" for _, finding in findings):
        raise typer.Exit(1)


def render(findings: Iterable[tuple[str, Finding]]) -> Table:
    """Return a table of the findings, each with what to do under it."""
    made = table("", "status", "what was found")
    made.columns[-1].overflow = "fold"
    for name, finding in findings:
        detail = Text(finding.detail)
        if finding.mend:
            detail.append(f"\n→ {finding.mend}", "bold")
        made.add_row(name, Text(finding.status, STYLES[finding.status]), detail)
    return made


def diagnose(home: Path, database: str, plugins: Sequence[Path] = ()) -> list[tuple[str, Finding]]:
    """Examine everything that a run needs, and return the findings by name; leave nothing behind.

    Args:
        home: the folder of runs; it need not exist.
        database: path or URL of the database.
        plugins: files to load.
    """
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", lambda: Finding("ok", f"{platform.python_version()} in {sys.prefix}")),
        ("torch", _torch),
        ("device", _device),
        ("threads", _threads),
        ("load", _load),
        ("memory", _memory),
        ("data", _data),
        ("suites", _suites),
        ("home", partial(_home, home)),
        ("database", partial(_database, database)),
        ("plugins", _entry_points),
        *[(f"plugin {plugin.name}", partial(_plugin, plugin)) for plugin in plugins],
    ]
    findings = []
    for name, check in checks:
        try:
            findings.append((name, check()))
        except Exception as error:
            findings.append((name, Finding("fail", f"{type(error).__name__}: {error}")))
    return findings


def _warn_if(bad: bool, detail: str, mend: str) -> Finding:
    return Finding("warn", detail, mend) if bad else Finding("ok", detail)


def _torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("fail", str(error), "pip install -e . in the repository's folder")
    identity = torch.eye(3)
    if not torch.equal(identity @ identity, identity):
        return Finding("fail", f"{torch.__version__} multiplies wrongly", "reinstall it")
    return Finding("ok", torch.__version__)


def _device() -> Finding:
    import torch

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi") is None:
            return Finding("ok", "no GPU; runs use the CPU")
        detail = f"there is an NVIDIA driver, which torch {torch.__version__} cannot use"
        return Finding("warn", detail, "install a torch that was built for its CUDA version")
    named = []
    for index in range(torch.cuda.device_count()):
        identity = torch.eye(3, device=f"cuda:{index}")
        if not torch.equal(identity @ identity, identity):
            return Finding("fail", f"GPU {index} multiplies wrongly", "do not use it")
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        named.append(f"{name}, {free / GIGABYTE:.0f} of {total / GIGABYTE:.0f} GB free")
    return Finding("ok", "; ".join(named))


def _threads() -> Finding:
    from bench.environment import cores, run_threads
    from results.text import counted

    threads, there = run_threads(), cores()
    detail = f"a run computes with {threads} of {counted(there, 'core')}"
    return _warn_if(threads > there, detail, f"set OMP_NUM_THREADS={there}")


def _load() -> Finding:
    import psutil

    from bench.environment import cores
    from results.text import counted

    load, there = psutil.getloadavg()[0], cores()
    detail = f"{load:.1f} processes wanted to run in the last minute, on {counted(there, 'core')}"
    return _warn_if(load > there / 2, detail, "timings will be noisy: let other work finish first")


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    detail = f"{memory.available / GIGABYTE:.1f} of {memory.total / GIGABYTE:.1f} GB free"
    scarce = memory.available < ENOUGH_MEMORY
    return _warn_if(scarce, detail, "end other programs; large presets need more")


def _data() -> Finding:
    from bench.config import DataConfig
    from bench.data import load_dataset
    from bench.data.fashion_mnist_mini import CONTENT_HASH, FILE

    dataset = load_dataset(DataConfig.model_validate({"name": "fashion_mnist_mini"}))
    if dataset.content_hash != CONTENT_HASH:
        detail = f"the embedded images have hash {dataset.content_hash}, not {CONTENT_HASH}"
        return Finding("fail", detail, f"git checkout -- {FILE}")
    images = sum(len(split) for split in dataset.splits.values())
    return Finding("ok", f"{dataset.name}: {images:,} images, as they should be")


def _suites() -> Finding:
    from results.text import counted
    from routers.errors import BenchError
    from suites.support.known_answers import self_test

    try:
        answers = self_test()
    except BenchError as error:
        return Finding("fail", str(error), "fix the suite; its measurements cannot be trusted")
    return Finding("ok", f"{counted(answers, 'known answer')}, all measured right")


def _home(home: Path) -> Finding:
    there = next(place for place in (home.absolute(), *home.absolute().parents) if place.exists())
    if not there.is_dir():
        return Finding("fail", f"{there} is a file", "choose another folder with --home")
    try:
        with tempfile.NamedTemporaryFile(dir=there) as file:
            file.write(b"0" * 4096)
            file.flush()
    except OSError as error:
        mend = "choose another folder with --home or BENCH_HOME"
        return Finding("fail", f"cannot write into {there}: {error.strerror}", mend)
    free = shutil.disk_usage(there).free
    detail = f"{home}: {free / GIGABYTE:.0f} GB free"
    mend = "free some space: checkpoints of large presets need more"
    return _warn_if(free < ENOUGH_DISK, detail, mend)


def _database(database: str) -> Finding:
    from results import StoreError, describe, open_store
    from results.files import WAY_OUT, refusal
    from results.text import counted

    if "://" not in database:
        file = Path(database)
        if why := refusal(file):
            return Finding("fail", why, WAY_OUT)
        if not file.exists():
            return Finding("ok", f"{file}: none yet; the first run creates it")
    try:
        with open_store(database, create=False) as store:
            about = describe(store)
    except StoreError as error:
        return Finding("fail", str(error))
    studies = counted(len(about.studies), "study", "studies")
    return Finding("ok", f"{about.url}: schema {about.schema}, {studies}")


def _entry_points() -> Finding:
    from routers import list_routers, load_entry_points

    failures = load_entry_points()
    if failures:
        detail = "; ".join(failure.message for failure in failures)
        return Finding("warn", detail, "fix or uninstall it; all others work")
    return Finding("ok", f"{len(list_routers())} routers are registered")


def _plugin(file: Path) -> Finding:
    from routers import RequestError, load_plugin

    try:
        load_plugin(file)
    except RequestError as error:
        return Finding("fail", str(error))
    return Finding("ok", str(file))
