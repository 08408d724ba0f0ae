"""What the search itself costs: trees grown with an evaluator that costs nothing.

    python -m benchmarks.bookkeeping
    python -m benchmarks.interpreted benchmarks.bookkeeping

Every option is made beforehand and handed over at once, so that what is timed is the search:
selection, expansion, merge, evaluation, backup, budget and queue, on one core. Prints the median
CPU microseconds of a simulation at several sizes of the tree, and how many that is a second. The
second command leaves aside what of the search is compiled.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from mcts_core.search import tree
from mcts_core.search.methods import create
from mcts_core.search.parameters import Budget, Merge, SearchParameters, StopWhen, Width
from mcts_core.search.search import Search
from mcts_core.search.work import (
    Extend,
    Extended,
    Open,
    Opened,
    Option,
    Outcome,
    Release,
    Sampling,
    TokenLogprob,
    Work,
)
from server import collector

_POOL = 4093
_TOKENS = 12
"""Of an option: a line of a calculation."""
_WINDOW = 20
"""A search is timed from `1 / _WINDOW` below the nominal size of its tree to as much above it, but
over at least `_LEAST` simulations."""
_LEAST = 10


@dataclass(frozen=True, slots=True)
class FreeState:
    """A state that nothing was computed for."""

    tokens: tuple[int, ...] = ()


class FreeEvaluator:
    """Answers every piece of work from a pool of options, by node and draw."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self._state = FreeState()
        self._pool: list[Option] = []
        for index in range(_POOL):
            tokens = tuple(chance.randrange(32_000) for _ in range(_TOKENS))
            logprobs = tuple(TokenLogprob(token, -chance.random()) for token in tokens)
            self._pool.append(
                Option(
                    self._state,
                    tokens,
                    logprobs,
                    tuple(each.logprob for each in logprobs),
                    f"{index} + {chance.randrange(1000)} = {chance.randrange(1000)}\n",
                    "step",
                    {"value": chance.random()},
                    (0,),
                )
            )

    def __call__(self, work: Work) -> Outcome:
        if isinstance(work, Extend):
            node, first = work.key
            at = node * 61 + first
            pool = self._pool
            drawn = tuple(pool[(at + draw) % _POOL] for draw in range(work.draws))
            return Extended(drawn, _TOKENS * work.draws)
        if isinstance(work, Open):
            return Opened(self._state, {"value": 0.5}, len(work.tokens))
        raise TypeError(f"{type(work).__name__} was not expected")


SHAPES: dict[str, SearchParameters] = {
    "importance, 8 in flight": SearchParameters(critics={"value": 1.0}, parallel=8, fallback=()),
    "progressive, 1 in flight": SearchParameters(
        critics={"value": 1.0},
        width=Width(rule="progressive", root=(4, 40), inner=(1, 8)),
        parallel=1,
        fallback=(),
    ),
    "importance, edit merge": SearchParameters(
        critics={"value": 1.0}, merge=Merge(threshold=0.1), parallel=8, fallback=()
    ),
    "all limits, 1 in flight": SearchParameters(
        critics={"value": 1.0},
        budget=Budget(tokens=1 << 40, nodes=1 << 40, deadline_ms=1e12),
        width=Width(rule="progressive", root=(4, 40), inner=(1, 8)),
        parallel=1,
        fallback=("beam", "sample"),
    ),
    "backup max": SearchParameters(critics={"value": 1.0}, backup="max", parallel=8, fallback=()),
}


def begin(parameters: SearchParameters, simulations: int) -> Search:
    """A search over options without end."""
    return create(
        prompt=tuple(range(16)),
        parameters=parameters.model_copy(
            update={
                "budget": parameters.budget.model_copy(update={"simulations": simulations}),
                "stop_when": StopWhen(converged=False),
                "max_depth": 1000,
            }
        ),
        sampling=Sampling(),
        max_tokens=1_000_000,
        stop=(),
        n=1,
        stream=False,
        clock=time.monotonic,
        started=time.monotonic(),
        outcome_critics=frozenset(),
        process_critics=frozenset(),
        reading_critics=frozenset(),
        rollouts_available=False,
    )


def grow(search: Search, evaluator: FreeEvaluator, marks: list[int]) -> list[float]:
    """Runs `search` until it has made the last of `marks` simulations; the process's CPU seconds
    at each mark, which are the same whatever else the machine is doing."""
    times: list[float] = []
    ahead = iter(marks)
    mark = next(ahead)
    pending = [work for work in search.start() if not isinstance(work, Release)]
    while len(times) < len(marks):
        work = pending.pop(0)
        pending += [
            new for new in search.deliver(work, evaluator(work)) if not isinstance(new, Release)
        ]
        if search.progress.simulations >= mark:
            times.append(time.process_time())
            mark = next(ahead, 1 << 62)
    return times


def cost(parameters: SearchParameters, size: int, seed: int) -> float:
    """Seconds of a simulation in a tree of about `size` simulations."""
    half = max(_LEAST // 2, size // _WINDOW)
    low, high = max(1, size - half), size + half
    evaluator = FreeEvaluator(seed)
    search = begin(parameters, 2 * high)  # so that its end, with the readout, is not timed
    gc.collect()
    began, ended = grow(search, evaluator, [low, high])
    search.close()  # as the engine does
    return (ended - began) / (high - low)


def costs(parameters: SearchParameters, sizes: list[int], repeat: int) -> list[float]:
    """Medians, by size. The sizes take turns: what slows the machine for a while slows all."""
    found = [[cost(parameters, size, seed) for size in sizes] for seed in range(repeat)]
    return [statistics.median(each) for each in zip(*found, strict=True)]


def main(
    size: Annotated[list[int] | None, typer.Option(help="Simulations in the tree.")] = None,
    repeat: Annotated[int, typer.Option(help="Trees that each median is of.")] = 9,
) -> None:
    collector.settle()  # as the server does
    sizes = size or [10, 100, 1000, 10_000]
    how = "interpreted" if str(tree.__file__).endswith(".py") else "compiled"
    table = Table(
        "search", *(f"µs at {size:,}" for size in sizes), "a second", "last / first", title=how
    )
    for name, parameters in SHAPES.items():
        found = costs(parameters, sizes, repeat)
        table.add_row(
            name,
            *(f"{each * 1e6:.1f}" for each in found),
            f"{1 / max(found):,.0f}",
            f"{found[-1] / found[0]:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
