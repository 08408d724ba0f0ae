"""What happens when a KV pool is full: who gives up KV for whom, to compute it again later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from mcts_core.engine.run import Run
from mcts_core.engine.seating import Seating
from mcts_core.engine.session import Session
from mcts_core.kv.blocks import BlockPool
from mcts_core.kv.branch import Branch
from mcts_core.search.work import Failed


class Preemption:
    """Room for runs that find none.

    The cached beginnings of prompts go first; the pool does that by itself. Then it is taken from
    the requests of the lowest priority: their states give up their KV, the one that was not used
    for longest first (what goes on from one later computes it again from its nearest ancestor that
    has some), then their runs, the newest first. Among equals, runs give way only when none can
    move. A run that gave way is *parked*: it begins again when there is room for it, and until then
    nothing that ranks behind it in its model goes on. While a run finds no room, no prompt that
    ranks behind it is begun or gone on with (`first_stalled`). So the run that ranks first always
    gets on, whoever comes after it, and all runs come to their end, except one that does not fit
    into an otherwise empty pool.
    """

    def __init__(self, seating: Seating) -> None:
        self._seating = seating
        self._pressed: dict[str, tuple[int, int, int]] = {}
        """Models in which runs found no room in the last step; the rank of the first of them."""

    def first_parked(self, model: str) -> tuple[int, int, int] | None:
        """The rank of the model's first parked run; None without one."""
        return min((run.rank for run in self._seating.parked if run.model == model), default=None)

    def first_stalled(self, model: str) -> tuple[int, int, int] | None:
        """The rank of the first of the model's runs that found no room in the last step."""
        return self._pressed.get(model)

    def make_room(self, sessions: Iterable[Session], run: Run, count: int) -> bool:
        """Takes KV from requests of the same priority and below until the run can grow by `count`
        tokens; False if that is not enough."""
        own = run.job.session.priority
        by_priority: dict[int, list[Session]] = {}
        for session in sessions:
            by_priority.setdefault(session.priority, []).append(session)
        for priority in sorted(by_priority, reverse=True):
            if priority < own:
                break
            while not _evict(by_priority[priority], run, count):
                last = self._last(run.model, priority) if priority > own else None
                if last is None:
                    break
                self._park(last)
            else:
                return True
        return False

    def resume(self, sessions: Iterable[Session]) -> None:
        """Begins parked runs again, oldest first, where there is room for all that they lack and a
        block for each run beside them: as it is, or once the states of requests of the same
        priority and below have given up their KV, which wait for nothing themselves."""
        for model in {run.model for run in self._seating.parked} - self._pressed.keys():
            beside = sum(1 for run in self._seating.runs if run.model == model)
            for run in self._waiting(model):
                self._seating.attach(run)
                if not _clear(sessions, run, run.branch.missing(run.remaining) + beside):
                    run.branch.release()
                    break
                self._unpark(run)
                beside += 1

    def relieve(
        self, sessions: Iterable[Session], stalled: Sequence[Run], *, progress: bool
    ) -> None:
        """At the end of a step. Where nothing moves, the newest run that holds blocks gives way, in
        the end the oldest itself; then that has the pool to itself, and begins again or fails."""
        self._pressed = {}
        for run in stalled:
            self._pressed[run.model] = min(run.rank, self._pressed.get(run.model, run.rank))
        if progress:
            return
        for model in self._pressed.keys() | {run.model for run in self._seating.parked}:
            # Nothing moves: every run waits, for room or behind a parked one.
            running = (run for run in self._seating.runs if run.model == model)
            waiting = sorted((*running, *self._waiting(model)), key=lambda run: run.rank)
            if not waiting:
                continue
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

    def _last(self, model: str, priority: int) -> Run | None:
        """Of this priority's runs, the one that ranks last of those that hold blocks."""
        runs = (
            run
            for run in self._seating.runs
            if run.model == model and run.job.session.priority == priority and run.branch.blocks
        )
        return max(runs, key=lambda run: run.rank, default=None)

    def _park(self, run: Run) -> None:
        run.parked = True
        self._seating.vacate(run)
        self._seating.runs.remove(run)
        self._seating.parked.append(run)

    def _unpark(self, run: Run) -> None:
        run.parked = False
        self._seating.count(run)
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
        else:
            self._seating.count(run)
        return True


def _evict(sessions: Sequence[Session], run: Run, count: int) -> bool:
    """Evicts the coldest states of these requests until the run can grow by `count` tokens; False
    if that is not enough."""
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


def _clear(sessions: Iterable[Session], run: Run, count: int) -> bool:
    """Whether the pool has `count` blocks for `run`, for which the coldest states of requests of
    its priority and below give up their KV, if that is enough."""
    pool, own = run.branch.pool, run.job.session.priority
    if count <= pool.available:
        return True
    idle = _idle((session for session in sessions if session.priority >= own), pool)
    held = Counter(block for branch in idle for block in branch.blocks)
    freed = sum(1 for block, times in held.items() if pool.references(block) == times)
    if count > pool.available + freed:
        return False
    for branch in idle:
        if count <= pool.available:
            break
        assert branch.give_up is not None
        branch.give_up()
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
