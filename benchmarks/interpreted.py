"""Runs a module with the search as its sources say it, whatever of it is compiled.

python -m benchmarks.interpreted benchmarks.bookkeeping --size 10 --size 10000
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

_PACKAGE = "mcts_core.search."


class Sources(MetaPathFinder):
    """Finds the `.py` of a module of the search before the extension that stands beside it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(_PACKAGE):
            return None
        source = f"{fullname.rpartition('.')[2]}.py"
        for folder in path or ():
            if (file := Path(folder, source)).exists():
                return spec_from_file_location(fullname, file)
        return None


if __name__ == "__main__":
    sys.meta_path.insert(0, Sources())
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
