"""Which machine and which code produced a result."""

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
"""Libraries that results depend on besides this repository; installed plugins are added."""
SETTINGS = (
    *("MALLOC_", "LD_PRELOAD", "PYTORCH_", "OMP_", "KMP_", "GOMP_", "MKL_"),
    *("CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
)
"""Prefixes of the environment variables that affect speed: allocator, threads, precision."""
LONGEST_DIFF = 200_000
MALLOPT = {
    "MALLOC_TRIM_THRESHOLD_": (-1, 2047 << 20),
    "MALLOC_TOP_PAD_": (-2, 256 << 20),
    "MALLOC_MMAP_THRESHOLD_": (-3, 32 << 20),
}
"""Environment variables of glibc's allocator, each with its mallopt(3) parameter and our value."""


def machine() -> Machine:
    """Describe this machine as it is now; a timing is valid for this machine only."""
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.system()
    named = sorted(name for name in os.environ if name.startswith(SETTINGS))
    return Machine(
        name=platform.node(),
        system=f"{system}, {platform.release()}",
        processor=_processor(),
        cores=cores(),
        threads=torch.get_num_threads(),
        memory_bytes=psutil.virtual_memory().total,
        gpu=", ".join(dict.fromkeys(gpu.name for gpu in gpus)) or None,
        gpu_count=len(gpus),
        gpu_memory_bytes=gpus[0].total_memory if gpus else None,
        driver=((_output(query) or "").partition("\n")[0] or None) if gpus else None,
        settings={
            **{name: os.environ[name] for name in named},
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "deterministic": str(torch.are_deterministic_algorithms_enabled()),
            "cudnn_benchmark": str(torch.backends.cudnn.benchmark),
        },
    )


def code_version(home: Path = HOME) -> CodeVersion:
    """Describe the commit, the uncommitted changes and the versions of the libraries.

    Args:
        home: the repository's folder. If it is not the top of a git checkout, as after an
            installation from a wheel, there is no commit; the package's version identifies it.
    """
    top = _git(home, "rev-parse", "--show-toplevel")
    own = top is not None and Path(top).resolve() == home.resolve()
    commit = _git(home, "rev-parse", "HEAD") if own else None
    changed = _git(home, "status", "--porcelain") if commit else None
    return CodeVersion(
        commit=commit,
        dirty=bool(changed),
        python=platform.python_version(),
        libraries=_libraries(),
        diff=_diff(home, changed) if changed else "",
    )


def cores() -> int:
    """Count the logical processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_threads() -> int:
    """Return how many threads a run computes with: one, unless `OMP_NUM_THREADS` is set."""
    return torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else 1


def keep_freed_memory() -> dict[str, str]:
    """Make this process keep the memory that it frees.

    Returns:
        The settings in force, by the name of glibc's environment variable, which takes precedence
        over the default here; `{}` if the allocator is not glibc's.
    """
    if platform.libc_ver()[0] != "glibc":
        return {}
    mallopt = ctypes.CDLL(None).mallopt
    in_force = {}
    for name, (number, default) in MALLOPT.items():
        if name in os.environ:
            in_force[name] = os.environ[name]
        elif mallopt(number, default) == 1:
            in_force[name] = str(default)
    return in_force


def _processor() -> str:
    """Return the vendor's name of the processor, if the system reports it."""
    if platform.system() == "Darwin":
        return _output(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _libraries() -> dict[str, str]:
    plugins = sorted(point.dist.name for point in entry_points(group=GROUP) if point.dist)
    versions = {}
    for name in (*LIBRARIES, *plugins):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue  # run from a copy that was never installed
    return versions


def _diff(home: Path, changed: str) -> str:
    """Return the output of `git diff` against the commit, and the list of untracked files."""
    new = [line for line in changed.splitlines() if line.startswith("??")]
    text = "\n".join(filter(None, (_git(home, "diff", "HEAD"), *new)))
    if len(text) <= LONGEST_DIFF:
        return text
    return f"{text[:LONGEST_DIFF]}\n… {len(text) - LONGEST_DIFF} more characters"


def _git(home: Path, *arguments: str) -> str | None:
    return _output(["git", "-C", str(home), *arguments])


def _output(command: Sequence[str]) -> str | None:
    """Return a command's output without its last newline; None if it fails or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", errors="replace").rstrip("\n")
