"""Which runs take part in a model's next forward, and with how many tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from mcts_core.engine.run import Run


class Scheduler:
    """Fills a forward of at most `max_tokens` tokens.

    When not all runs fit, the requests take turns, one run each, so that a tree of many branches
    does not starve a request of one. Prompts are computed in slices that end at multiples of
    `slice_tokens`: where a slice ends depends on the sequence alone and not on the load.
    """

    def __init__(self, max_tokens: int = 2048, slice_tokens: int = 512) -> None:
        if slice_tokens > max_tokens:
            raise ValueError("a prompt's slice must fit into a step")
        self._max_tokens = max_tokens
        self._slice_tokens = slice_tokens
        self._turn = 0

    def pick(self, runs: Sequence[Run], admit: Callable[[Run, int], bool]) -> list[tuple[Run, int]]:
        """Runs with something to compute, and the number of their next tokens. `admit` makes room
        for these in the KV pool; a run for which it cannot leaves its place to the next."""
        self._turn += 1
        ready = [(run, self._slice(run)) for run in runs if run.remaining]
        if sum(count for _, count in ready) <= self._max_tokens:
            return [entry for entry in ready if admit(*entry)]
        left, picked = self._max_tokens, []
        for run, count in self._in_turns(ready):
            if count <= left and admit(run, count):
                picked.append((run, count))
                left -= count
        return picked

    def _slice(self, run: Run) -> int:
        start = run.branch.length
        return min(run.remaining, self._slice_tokens - start % self._slice_tokens)

    def _in_turns(self, ready: list[tuple[Run, int]]) -> Iterator[tuple[Run, int]]:
        queues: dict[int, deque[tuple[Run, int]]] = {}
        for entry in ready:
            queues.setdefault(id(entry[0].job.session), deque()).append(entry)
        order = list(queues.values())
        offset = self._turn % len(order)
        circle = deque(chain(order[offset:], order[:offset]))
        while circle:
            queue = circle.popleft()
            yield queue.popleft()
            if queue:
                circle.append(queue)
