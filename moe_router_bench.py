"""The tool under a name that no other module has: `python -m moe_router_bench`.

The names of its packages are common ones: a folder that somebody works in may hold a `results.py`
or a `bench.py`. Once this module is imported, they mean the packages beside it, whatever lies in
the current folder, on PYTHONPATH or beside a plugin. Each process imports it before any of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

PACKAGES = ("bench", "report", "results", "routers", "suites")
FOLDER = str(Path(__file__).resolve().parent)


class OwnPackages:
    """A finder of this tool's packages, which is asked before any other."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find one of the packages where they lie; every other module is left to others."""
        return PathFinder.find_spec(fullname, [FOLDER], target) if fullname in PACKAGES else None


sys.meta_path.insert(0, OwnPackages)


def main() -> None:
    """Run the command line."""
    from bench.cli import main as run

    run()


if __name__ == "__main__":
    main()
