"""What machine and what code made a number."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

import psutil
import torch

from results import CodeVersion, Machine
from routers.plugins import GROUP

HOME = Path(__file__).resolve().parent.parent
LIBRARIES = ("moe-router-bench", "torch", "torchvision", "timm", "numpy", "scipy", "entmax")
"""What numbers depend on beside this repository; installed plugins are added."""
SETTINGS = (
    "MALLOC_",
    "LD_PRELOAD",
    "PYTORCH_",
    "OMP_",
    "KMP_",
    "GOMP_",
    "MKL_",
    "CUDA_LAUNCH_BLOCKING",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
)
"""Beginnings of the environment variables that change speed: allocator, threads, precision."""
LONGEST_DIFF = 200_000


def machine() -> Machine:
    """This machine as it is now: a timing belongs to it, and to no other."""
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return Machine(
        name=platform.node(),
        system=_system(),
        processor=processor(),
        cores=cores(),
        threads=torch.get_num_threads(),
        memory_bytes=psutil.virtual_memory().total,
        gpu=", ".join(dict.fromkeys(gpu.name for gpu in gpus)) or None,
        gpu_count=len(gpus),
        gpu_memory_bytes=gpus[0].total_memory if gpus else None,
        driver=_driver() if gpus else None,
        settings=_settings(),
    )


def code_version(home: Path = HOME) -> CodeVersion:
    """The commit, what differs from it, and the libraries beneath.

    Args:
        home: the repository's folder. Where it is not the top of a git checkout, as after an
            installation from a wheel, there is no commit, and the version of the package tells.
    """
    commit = _git(home, "rev-parse", "HEAD") if _is_checkout(home) else None
    changed = _git(home, "status", "--porcelain") if commit else None
    return CodeVersion(
        commit=commit,
        dirty=bool(changed),
        python=platform.python_version(),
        libraries=_libraries(),
        diff=_diff(home, changed) if changed else "",
    )


def processor() -> str:
    """The processor's name as its maker prints it, where the system tells."""
    if platform.system() == "Darwin":
        return _output(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def cores() -> int:
    """Logical processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_threads() -> int:
    """Threads that a run computes with: one, unless `OMP_NUM_THREADS` says otherwise."""
    return torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else 1


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, {platform.release()}"


def _driver() -> str | None:
    """The GPU driver's version; None where it does not tell."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return (_output(query) or "").partition("\n")[0] or None


def _settings() -> dict[str, str]:
    named = {name: value for name, value in os.environ.items() if name.startswith(SETTINGS)}
    return {
        **dict(sorted(named.items())),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
        "cudnn_benchmark": str(torch.backends.cudnn.benchmark),
    }


def _libraries() -> dict[str, str]:
    plugins = [point.dist.name for point in entry_points(group=GROUP) if point.dist]
    found = {}
    for name in (*LIBRARIES, *sorted(plugins)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # run from a copy that was never installed
    return found


def _diff(home: Path, changed: str) -> str:
    """What `git diff` says against the commit, and the names of files that git does not know."""
    text = _git(home, "diff", "HEAD") or ""
    new = [line for line in changed.splitlines() if line.startswith("??")]
    text = "\n".join(part for part in (text, *new) if part)
    if len(text) <= LONGEST_DIFF:
        return text
    return f"{text[:LONGEST_DIFF]}\n… {len(text) - LONGEST_DIFF} more characters"


def _is_checkout(home: Path) -> bool:
    """Whether this folder is a repository's own, and not a copy inside of somebody else's."""
    top = _git(home, "rev-parse", "--show-toplevel")
    return top is not None and Path(top).resolve() == home.resolve()


def _git(home: Path, *arguments: str) -> str | None:
    return _output(["git", "-C", str(home), *arguments])


def _output(command: Sequence[str]) -> str | None:
    """Return a command's output without its last newline; None if it fails or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", errors="replace").rstrip("\n")


_MEBIBYTE = 1 << 20
# Names and numbers of mallopt(3); the environment variable of the same meaning wins.
_SETTINGS = {
    "MALLOC_TRIM_THRESHOLD_": (-1, 2047 * _MEBIBYTE),
    "MALLOC_TOP_PAD_": (-2, 256 * _MEBIBYTE),
    "MALLOC_MMAP_THRESHOLD_": (-3, 32 * _MEBIBYTE),
}


def keep_freed_memory() -> dict[str, str]:
    """Let this process keep the memory that it frees.

    Returns:
        The settings in force, by the name of glibc's environment variable; `{}` where the
        allocator is not glibc's.
    """
    if platform.libc_ver()[0] != "glibc":
        return {}
    mallopt = ctypes.CDLL(None).mallopt
    in_force = {}
    for name, (number, default) in _SETTINGS.items():
        if name in os.environ:
            in_force[name] = os.environ[name]
        elif mallopt(number, default) == 1:
            in_force[name] = str(default)
    return in_force
