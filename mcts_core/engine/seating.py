"""Where states sit: seats in models, and the runs that compute what a seat lacks."""

from __future__ import annotations

from collections.abc import Mapping

from mcts_core.engine.decode import Decode
from mcts_core.engine.pending import WorkFailed
from mcts_core.engine.resident import Resident
from mcts_core.engine.run import Run
from mcts_core.engine.session import Job, Session
from mcts_core.engine.state import NodeState, Seat
from mcts_core.kv.branch import Branch
from mcts_core.search.work import Account, Failed, Tally

POLICY = "policy"
ROLLOUT = "rollout"
RELEASED = Failed("internal", "the state was released while it was in use")


class Seating:
    """All runs under way, and how states come to their seats."""

    def __init__(self, residents: Mapping[str, Resident], context_length: int) -> None:
        self._residents = residents
        self._context_length = context_length
        self.runs: list[Run] = []

    def seat(self, job: Job, state: NodeState, model: str) -> Seat:
        """The state's seat in a model; if it has none, a run is begun that computes what is
        missing since the nearest ancestor that has one, and seats those on the way as well."""
        known = state.seats.get(model)
        if known is not None and known.failure is None:
            return known
        if state.released:
            raise WorkFailed(RELEASED)
        limit = self._residents[model].context_length
        if model not in (POLICY, ROLLOUT) and len(state.tokens) > limit:
            message = f"{model}: the context of {limit} tokens is full"
            raise WorkFailed(Failed("critic_error", message))
        path: list[NodeState] = []
        base: Seat | None = None
        for ancestor in state.ancestry():
            base = ancestor.seats.get(model)
            if base is not None and not base.released:
                break
            base = None
            path.append(ancestor)
        # Nobody comes back to a released state on the way.
        path = [ancestor for ancestor in reversed(path) if not ancestor.released]
        seats = [Seat(length=len(missing.tokens)) for missing in path]
        for missing, seat in zip(path, seats, strict=True):
            missing.seats[model] = seat
        run = Run(
            job=job,
            model=model,
            branch=Branch(self._residents[model].pool, job.session.ledger),
            tokens=state.tokens,
            tally=_tally(job.session.account, model),
            seats=seats,
        )
        if base is None:
            self.runs.append(run)
        else:
            self._after(base, run)
        return seats[-1]

    def _after(self, base: Seat, run: Run) -> None:
        """Begins a run on top of a seat, as soon as that is computed."""

        def begin() -> None:
            if base.failure is not None:
                self.fail(run, base.failure)
            elif base.branch is None:
                self.fail(run, RELEASED)
            elif not run.job.session.ended:
                run.branch.release()
                run.branch = base.branch.fork()
                run.tally.cached += run.branch.length
                self.runs.append(run)

        if base.settled:
            begin()
        else:
            base.waiters.append(begin)

    def extend(
        self,
        job: Job,
        parent: NodeState,
        seat: Seat,
        model: str,
        decode: Decode,
        *,
        compute_last: bool = True,
    ) -> Run:
        """Begins a run that draws an option after `parent`."""
        if seat.branch is None:
            raise WorkFailed(RELEASED)
        if len(parent.tokens) >= self._context_length:
            message = f"the model's context of {self._context_length} tokens is full"
            raise WorkFailed(Failed("context_length", message))
        run = Run(
            job=job,
            model=model,
            branch=seat.branch.fork(),
            tokens=list(parent.tokens),
            tally=_tally(job.session.account, model),
            decode=decode,
            compute_last=compute_last,
            prompt_length=parent.prompt_length,
        )
        run.family.append(run)
        run.tally.cached += run.branch.length
        decode.logits = seat.logits
        self.runs.append(run)
        return run

    def fail(self, run: Run, failed: Failed) -> None:
        """Gives a run up: its blocks are cleaned and returned, and those who wait for it hear."""
        self._residents[run.model].scrub(run.branch)
        run.branch.release()
        for seat in run.seats:
            if not seat.settled:
                seat.released = True
                seat.settle(failed)
        run.settle(failed)

    def sweep(self) -> None:
        """Forgets the runs that are settled."""
        self.runs = [run for run in self.runs if not run.settled]

    def drop(self, session: Session) -> None:
        """Forgets a request's runs."""
        self.runs = [run for run in self.runs if run.job.session is not session]


def _tally(account: Account, model: str) -> Tally:
    if model == POLICY:
        return account.policy
    return account.rollout if model == ROLLOUT else account.critics
