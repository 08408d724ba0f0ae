"""The walk through the tree is compiled where there is a C compiler (setup.py); run as a program,
this prints what the searches come to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bookkeeping import SHAPES, FreeEvaluator, begin, grow
from mcts_core.search import backup, selection, tree, width
from mcts_core.search.methods.mcts import MCTS
from mcts_core.search.parameters import SearchParameters, Select

WALK = (tree, selection, backup, width)
SIMULATIONS = 500


def searches() -> Iterator[tuple[str, SearchParameters]]:
    for name, parameters in SHAPES.items():
        for rule in ("puct", "uct"):
            select = Select(rule=rule)  # type: ignore[arg-type]
            yield f"{name}, {rule}", parameters.model_copy(update={"select": select})


def _floats(node: tree.Node) -> tuple[float, ...]:
    return node.value, node.total, node.share, node.likelihood, node.importance, node.left


def trees() -> dict[str, list[list[Any]]]:
    """Of every search its nodes, with all that the walk reads and writes, to the last bit."""
    found: dict[str, list[list[Any]]] = {}
    for seed, (name, parameters) in enumerate(searches()):
        search = begin(parameters, 2 * SIMULATIONS)
        assert isinstance(search, MCTS)
        grow(search, FreeEvaluator(seed), [SIMULATIONS])
        assert search._tree is not None
        found[name] = [
            [node.id, node.visits, node.virtual, *map(float.hex, _floats(node))]
            for node in search._tree.walk()
        ]
        search.close()
    return found


def compiled() -> list[bool]:
    return [not str(module.__file__).endswith(".py") for module in WALK]


def test_compiled_and_interpreted_the_search_grows_the_same_tree() -> None:
    """Also what says that the extensions are older than the sources: `make` builds them anew."""
    if not any(compiled()):
        pytest.skip("installed without a C compiler: the search is interpreted anyway")
    command = [sys.executable, "-m", "benchmarks.interpreted", __name__]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"compiled": [False] * len(WALK), "trees": trees()}


def test_the_walk_is_compiled_whole_or_not_at_all() -> None:
    assert len(set(compiled())) == 1


if __name__ == "__main__":
    print(json.dumps({"compiled": compiled(), "trees": trees()}))
