"""The tool under a name that no other module has: `python -m moe_router_bench`.

The names of its packages are common: the user's working folder may hold a `results.py` or a
`bench.py`. Once this module is imported, these names mean the packages next to it, whatever is in
the current folder, on PYTHONPATH or next to a plugin. Each process imports it before any of them.
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
    """The finder of this tool's packages, which is asked before any other finder."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find one of the tool's packages; leave every other module to other finders."""
        return PathFinder.find_spec(fullname, [FOLDER], target) if fullname in PACKAGES else None


sys.meta_path.insert(0, OwnPackages)


def main() -> None:
    """Run the command line."""
    from bench.cli import main as run

    run()


if __name__ == "__main__":
    main()
