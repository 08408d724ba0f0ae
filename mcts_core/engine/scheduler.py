"""Which runs take part in a model's next forward, and with how many tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice

from mcts_core.engine.run import Run
from mcts_core.engine.session import Session

Entry = tuple[Run, int]
"""A run, and the number of its next tokens."""


class Scheduler:
    """Fills a forward of at most `max_tokens` tokens.

    When not all runs fit, requests of a lower `priority` number go before all others. Among equals:

    - Runs of one token (options being drawn) go before slices of prompts; but in every second such
      step one slice goes first. So prompts do not stop what is being drawn, nor the other way.
    - The requests take turns, one run each, so that a tree of many branches does not starve a
      request of one. Whoever has waited for longest begins, so newcomers starve nobody.

    Prompts are computed in slices that end at multiples of `slice_tokens`: where a slice ends
    depends on the sequence alone and not on the load.
    """

    def __init__(self, max_tokens: int = 2048, slice_tokens: int = 512) -> None:
        if slice_tokens > max_tokens:
            raise ValueError("a prompt's slice must fit into a step")
        self._max_tokens = max_tokens
        self._slice_tokens = slice_tokens
        self._step = 0
        """Counts the steps into which not all runs fitted."""
        self._since: dict[tuple[Session, bool], int] = {}
        """By request, its single tokens and its slices apart: the step since which it waits."""

    def pick(self, runs: Sequence[Run], admit: Callable[[Run, int], bool]) -> list[Entry]:
        """Runs with something to compute, and the number of their next tokens. `admit` makes room
        for these in the KV pool, and is asked in the order of priorities; a run for which it cannot
        leaves its place to the next."""
        ready = [
            (run, 1 if left == 1 else self._slice(run, left))
            for run in runs
            if (left := run.remaining)
        ]
        ready.sort(key=_priority)
        if sum(count for _, count in ready) <= self._max_tokens:
            self._since.clear()
            return [entry for entry in ready if admit(*entry)]
        self._step += 1
        known, self._since = self._since, {}
        left, picked = self._max_tokens, []
        for _, equals in groupby(ready, key=_priority):
            for run, count in self._among(list(equals), known):
                if count <= left and admit(run, count):
                    picked.append((run, count))
                    left -= count
                    self._since[run.job.session, count == 1] = self._step + 1
        return picked

    def _slice(self, run: Run, left: int) -> int:
        """How many of the run's `left` tokens come next."""
        return min(left, self._slice_tokens - run.branch.length % self._slice_tokens)

    def _among(
        self, equals: Sequence[Entry], known: dict[tuple[Session, bool], int]
    ) -> Iterator[Entry]:
        singles = self._in_turns([entry for entry in equals if entry[1] == 1], known)
        slices = self._in_turns([entry for entry in equals if entry[1] > 1], known)
        if self._step % 2 == 0:
            yield from islice(slices, 1)
        yield from singles
        yield from slices

    def _in_turns(
        self, entries: Sequence[Entry], known: dict[tuple[Session, bool], int]
    ) -> Iterator[Entry]:
        queues: dict[tuple[Session, bool], deque[Entry]] = {}
        for run, count in entries:
            queues.setdefault((run.job.session, count == 1), deque()).append((run, count))
        since = {key: known.get(key, self._step) for key in queues}
        self._since.update(since)
        circle = deque(queues[key] for key in sorted(queues, key=lambda key: since[key]))
        while circle:
            queue = circle.popleft()
            yield queue.popleft()
            if queue:
                circle.append(queue)


def _priority(entry: Entry) -> int:
    return entry[0].job.session.priority
