"""What happens when a KV pool is full: who gives up KV for whom, to compute it again later."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mcts_core.engine.run import Run
from mcts_core.engine.seating import Seating
from mcts_core.engine.session import Session
from mcts_core.kv.blocks import BlockPool
from mcts_core.kv.branch import Branch
from mcts_core.search.work import Failed


class Preemption:
    """Room for runs that find none.

    The cached beginnings of prompts go first; the pool does that by itself. Then the states that
    were not used for longest give up their KV: what goes on from one later computes it again from
    its nearest ancestor that has some. When only runs are left and none can move, the newest
    requests' runs give way and begin again later. The oldest run always gets on; so all runs come
    to their end, except one that does not fit into an otherwise empty pool.
    """

    def __init__(self, seating: Seating) -> None:
        self._seating = seating
        self._pressed: set[str] = set()
        """Models in which a run found no room in the last step."""

    def make_room(self, sessions: Iterable[Session], run: Run, count: int) -> bool:
        """Evicts the coldest states until the run can grow by `count` tokens; False if that is not
        enough."""
        pool = run.branch.pool
        while run.branch.missing(count) > pool.available:
            freed = False
            for branch in _idle(sessions, pool):
                if branch.give_up is not None and branch.frees():
                    branch.give_up()
                    freed = True
                    if run.branch.missing(count) <= pool.available:
                        break
            if not freed:
                return False
        return True

    def resume(self) -> None:
        """Begins parked runs again, oldest first, where there is room for all that they lack and a
        block for each run beside them."""
        for model in {run.model for run in self._seating.parked} - self._pressed:
            beside = sum(1 for run in self._seating.runs if run.model == model)
            for run in self._waiting(model):
                self._seating.attach(run)
                if run.branch.missing(run.remaining) + beside > run.branch.pool.available:
                    run.branch.release()
                    break
                self._unpark(run)
                beside += 1

    def relieve(
        self, sessions: Iterable[Session], stalled: Sequence[Run], *, progress: bool
    ) -> None:
        """At the end of a step. Where nothing moves, the newest run that holds blocks gives way, in
        the end the oldest itself; then that has the pool to itself, and begins again or fails."""
        self._pressed = {run.model for run in stalled}
        if progress:
            return
        for model in self._pressed | {run.model for run in self._seating.parked}:
            waiting = sorted(
                (*(run for run in stalled if run.model == model), *self._waiting(model)),
                key=lambda run: run.rank,
            )
            first = waiting[0]
            holding = [run for run in waiting[1:] if run.branch.blocks]
            if holding:
                self._park(holding[-1])
            elif first.branch.blocks:
                self._park(first)
            elif not self._alone(sessions, first):
                self._seating.fail(
                    first, Failed("kv_exhausted", f"the KV pool of {model!r} is full")
                )
        self._seating.sweep()

    def _waiting(self, model: str) -> list[Run]:
        parked = (run for run in self._seating.parked if run.model == model)
        return sorted(parked, key=lambda run: run.rank)

    def _park(self, run: Run) -> None:
        run.branch.release()
        self._seating.runs.remove(run)
        self._seating.parked.append(run)

    def _unpark(self, run: Run) -> None:
        self._seating.parked.remove(run)
        self._seating.runs.append(run)

    def _alone(self, sessions: Iterable[Session], run: Run) -> bool:
        """Begins a run that has the pool to itself; False if even so it does not fit."""
        self._seating.attach(run)
        if not self.make_room(sessions, run, run.remaining):
            # What is left shares the run's blocks; the last of them is then its own to write to.
            for branch in _idle(sessions, run.branch.pool):
                if branch.give_up is not None:
                    branch.give_up()
            if run.branch.missing(run.remaining) > run.branch.pool.available:
                return False
        if run in self._seating.parked:
            self._unpark(run)
        return True


def _idle(sessions: Iterable[Session], pool: BlockPool) -> list[Branch]:
    """The branches that can be given up, the coldest first."""
    branches = (
        branch
        for session in sessions
        for branch in session.ledger.branches
        if branch.pool is pool and branch.give_up is not None
    )
    return sorted(branches, key=lambda branch: branch.used)
